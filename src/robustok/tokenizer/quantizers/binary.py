"""Codes made of bits, as LFQ and BSQ have them: their numbers, and entropies of how they are used."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Codebook, Scalar, Tokens

TINY = 1e-12  # keeps a logarithm finite; p log p is 0 there


def signs(latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """1 where a latent is above 0, else -1 (arXiv 2310.05737, eq. 2)."""
    return (latents > 0).to(latents.dtype) * 2 - 1


def to_tokens(latents: Float[Tensor, "b n d"]) -> Tokens:
    """The number whose bit i says whether channel i is above 0 (arXiv 2310.05737, eq. 3)."""
    return ((latents > 0).long() << torch.arange(latents.shape[-1], device=latents.device)).sum(dim=-1)


def all_signs(bits: int) -> Codebook:
    """The 2^bits codes of -1 and 1, in the order of their numbers."""
    numbers = torch.arange(2**bits)
    return (numbers[:, None] >> torch.arange(bits) & 1).float() * 2 - 1


def alone(value: Tensor) -> Tensor:
    """A statistic of a batch that nobody else has a part of."""
    return value


def entropies(
    up: Float[Tensor, "m d"], group: int, across: Callable[[Tensor], Tensor] = alone
) -> tuple[Scalar, Scalar]:
    """(mean entropy of each token's distribution over codes, entropy of the mean distribution), in nats.

    `up` is each channel's probability of the upper sign. Given a latent its channels are independent, so that the
    first is exactly the sum over channels (arXiv 2406.07548, eq. 9). For the second, `group` channels at a time
    are taken jointly, over 2^group codes, and groups as independent: exact for one group, else an upper bound
    (arXiv 2310.05737, sec. 3.2; arXiv 2406.07548, eq. 10 has groups of one). `across` makes of this batch's mean
    distribution that of all batches which count as one.
    """
    both = torch.stack([1 - up, up], dim=-1)  # (m, d, 2)
    of_each = entropy(both).sum(dim=1).mean()
    of_all = torch.zeros((), device=up.device, dtype=up.dtype)
    for part in both.split(group, dim=1):
        joint = part[:, 0]
        for channel in part.unbind(dim=1)[1:]:
            joint = (joint[:, :, None] * channel[:, None]).flatten(1)
        of_all = of_all + entropy(across(joint.mean(dim=0)))
    return of_each, of_all


def entropy(p: Float[Tensor, "*rest k"]) -> Float[Tensor, "*rest"]:
    """-sum p log p over the last axis."""
    return -(p * p.clamp_min(TINY).log()).sum(dim=-1)
