"""How differently two sets of tokens use the codebook, beside how differently two sets of real images do."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.evaluation.metrics.codebook_use import code_counts, perplexity, used_fraction

Counts = Int[Tensor, " k"]


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """Code use of generated tokens against real ones; each floor is that of as many tokens of other real images.

    Two samples differ even when their distributions do not, the more so the larger the codebook, and tokens of one
    image are not independent, so no formula says by how much: the floor does.
    """

    js: float  # Jensen-Shannon divergence in nats, 0 to ln 2
    js_floor: float
    kl: float  # KL(real || generated) in nats, half a token added to every code's count
    kl_floor: float
    unseen: float  # fraction of the generated tokens whose code no real image here uses
    unseen_floor: float
    perplexity_real: float
    perplexity_generated: float
    used_real: float  # fraction of the codes that occur
    used_generated: float


def code_usage(
    *, generated: Int[Tensor, "g n"], real: Int[Tensor, "r n"], other: Int[Tensor, "o n"], codebook_size: int
) -> CodeUsage:
    """Use of the codes by generated images and, for the floor, by `other` real ones, against that by `real` ones.

    Raises ValueError unless there are as many generated tokens as other ones: a floor of fewer lies higher.
    """
    if generated.numel() != other.numel():
        raise ValueError(
            f"{generated.numel()} generated tokens have no floor in {other.numel()} real ones; give as many of both"
        )
    r, g, o = (code_counts(tokens.cpu(), codebook_size) for tokens in (real, generated, other))
    return CodeUsage(
        js=jensen_shannon(r, g),
        js_floor=jensen_shannon(r, o),
        kl=kullback_leibler(r, g),
        kl_floor=kullback_leibler(r, o),
        unseen=int(g[r == 0].sum()) / int(g.sum()),
        unseen_floor=int(o[r == 0].sum()) / int(o.sum()),
        perplexity_real=perplexity(r),
        perplexity_generated=perplexity(g),
        used_real=used_fraction(r),
        used_generated=used_fraction(g),
    )


def kullback_leibler(p: Counts, q: Counts, pseudo: float = 0.5) -> float:
    """KL(p || q) in nats of two histograms, with `pseudo` added to every count (Krichevsky & Trofimov 1981).

    Without it, one code that q lacks would make it infinite.
    """
    p_share, q_share = ((counts.double() + pseudo) / (counts.sum() + pseudo * len(counts)) for counts in (p, q))
    return float((p_share * (p_share / q_share).log()).sum())


def jensen_shannon(p: Counts, q: Counts) -> float:
    """Jensen-Shannon divergence of two histograms in nats (Lin 1991): 0 where equal, ln 2 where disjoint."""
    shares = torch.stack([counts.double() / counts.sum() for counts in (p, q)])
    middle = shares.mean(dim=0)
    entropy = -torch.xlogy(shares, shares).sum(dim=1).mean()
    return min(max(float(-torch.xlogy(middle, middle).sum() - entropy), 0.0), math.log(2))
