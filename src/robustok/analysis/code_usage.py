"""Differences in how sets of tokens use the codebook.

Two samples differ even when their distributions do not, the more so the larger the codebook, and tokens of one image
are not independent, so no formula says by how much: as many tokens of other real images do, the floor.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.evaluation.metrics.codebook_use import code_counts, perplexity, used_fraction

Counts = Int[Tensor, " k"]


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """Code use of one set of tokens against real ones."""

    js: float  # Jensen-Shannon divergence in nats, 0 to ln 2
    kl: float  # KL(real || these) in nats, half a token added to every code's count
    unseen: float  # fraction of the tokens whose code no real image here uses
    perplexity: float
    used: float  # fraction of the codes that occur


def code_usage(sets: dict[str, Tensor], real: Tensor, codebook_size: int) -> dict[str, CodeUsage]:
    """Use of the codes by each set of Tokens (b n), against that by the `real` ones.

    Raises ValueError unless the sets are of as many tokens: a floor of fewer lies higher.
    """
    if len({tokens.numel() for tokens in sets.values()}) > 1:
        sizes = " and ".join(f"{tokens.numel()} {name}" for name, tokens in sets.items())
        raise ValueError(f"{sizes} tokens have no floor in each other; give as many of both")
    r, *counts = (code_counts(tokens.cpu(), codebook_size) for tokens in (real, *sets.values()))
    return {
        name: CodeUsage(
            js=jensen_shannon(r, these),
            kl=kullback_leibler(r, these),
            unseen=int(these[r == 0].sum()) / int(these.sum()),
            perplexity=perplexity(these),
            used=used_fraction(these),
        )
        for name, these in zip(sets, counts, strict=True)
    }


def kullback_leibler(p: Counts, q: Counts, pseudo: float = 0.5) -> float:
    """KL(p || q) in nats of two histograms, with `pseudo` added to every count (Krichevsky & Trofimov 1981).

    Without it, one code that q lacks would make it infinite.
    """
    p_fraction, q_fraction = ((counts.double() + pseudo) / (counts.sum() + pseudo * len(counts)) for counts in (p, q))
    return float((p_fraction * (p_fraction / q_fraction).log()).sum())


def jensen_shannon(p: Counts, q: Counts) -> float:
    """Jensen-Shannon divergence of two histograms in nats (Lin 1991): 0 where equal, ln 2 where disjoint."""
    fractions = torch.stack([counts.double() / counts.sum() for counts in (p, q)])
    middle = fractions.mean(dim=0)
    entropy = -torch.xlogy(fractions, fractions).sum(dim=1).mean()
    return min(max(float(-torch.xlogy(middle, middle).sum() - entropy), 0.0), math.log(2))
