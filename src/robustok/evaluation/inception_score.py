"""Inception Score: are images clearly of a class, and the classes varied (Salimans et al. 2016, arXiv 1606.03498)?"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class InceptionScore(NamedTuple):
    mean: float  # over the splits
    std: float  # between the splits, 0 for one split


def inception_score(probabilities: Float[Tensor, "b classes"], *, split_size: int = 5000) -> InceptionScore:
    """exp(E KL(p(y|x) || p(y))), the mean over consecutive splits of `split_size` images (sec. 4).

    `probabilities` are a classifier's, rows that sum to 1. The last split may be smaller, as in ADM's
    evaluator; torch-fidelity's ten splits are a `split_size` of a tenth of the images, after a shuffle.
    Raises ValueError for logits, NaN and fewer than two images.
    """
    if len(probabilities) < 2:
        raise ValueError(f"an Inception Score takes many images, not {len(probabilities)}; give thousands")
    if not (probabilities >= 0).all() or (probabilities.sum(dim=1) - 1).abs().max() > 1e-3:
        raise ValueError("rows are no probabilities; give softmax outputs that are finite and sum to 1")
    scores = torch.stack([_score(part.double()) for part in probabilities.split(split_size)])
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _score(p: Float[Tensor, "b classes"]) -> Float[Tensor, ""]:
    marginal = p.mean(dim=0)
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(dim=1)
    return divergence.mean().exp()
