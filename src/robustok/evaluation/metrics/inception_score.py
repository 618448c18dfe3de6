"""Inception Score: are images clearly of a class, and the classes varied (Salimans et al. 2016, arXiv 1606.03498)?"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

SPLIT = 5000  # consecutive images that ADM's evaluator scores together


class InceptionScore(NamedTuple):
    mean: float  # over the splits
    std: float  # between the splits, 0 for one split


@dataclass(frozen=True, eq=False)
class ClassStats:
    """Sums of class probabilities that the score is made of, for each split of consecutive images; float64, on the CPU.

    Like feature statistics they add up, and do not grow with the number of images but by one row a split. The last
    split may be smaller, as in ADM's evaluator; torch-fidelity shuffles, then makes ten splits.
    """

    counts: Int[Tensor, " splits"]  # images
    totals: Float64[Tensor, "splits classes"]  # sum of their probabilities p
    negentropies: Float64[Tensor, " splits"]  # sum of their p log p

    @classmethod
    def of(
        cls, probabilities: Float[Tensor, "b classes"], positions: Int[Tensor, " b"], split_size: int = SPLIT
    ) -> "ClassStats":
        """Those of a batch; `positions` are the images' among all. ValueError for what is no probability."""
        p = probabilities.double().cpu()
        if not (p >= 0).all() or (p.sum(dim=1) - 1).abs().max() > 1e-3:
            raise ValueError("rows are no probabilities; give softmax outputs that are finite and sum to 1")
        split = positions.cpu() // split_size
        member = F.one_hot(split, int(split.max()) + 1)  # (b, splits)
        return cls(member.sum(dim=0), member.double().T @ p, member.double().T @ torch.xlogy(p, p).sum(dim=1))

    def __add__(self, other: "ClassStats") -> "ClassStats":
        """The statistics of both sets together."""
        rows = max(len(self.counts), len(other.counts))

        def total(one: Tensor, more: Tensor) -> Tensor:
            return sum(F.pad(x, (0, 0) * (x.ndim - 1) + (0, rows - len(x))) for x in (one, more))  # type: ignore[return-value]

        return ClassStats(
            total(self.counts, other.counts),
            total(self.totals, other.totals),
            total(self.negentropies, other.negentropies),
        )

    def score(self) -> InceptionScore:
        """exp(E KL(p(y|x) || p(y))) of each split (sec. 4), and of these the mean. ValueError for under two images."""
        if self.counts.sum() < 2:
            raise ValueError(f"an Inception Score takes many images, not {int(self.counts.sum())}; give thousands")
        there = self.counts > 0
        counts = self.counts[there].double()
        marginals = self.totals[there] / counts[:, None]
        divergences = self.negentropies[there] / counts - torch.xlogy(marginals, marginals).sum(dim=1)
        scores = divergences.exp()
        return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))
