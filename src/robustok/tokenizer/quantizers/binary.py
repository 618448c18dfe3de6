"""Codes made of bits, as LFQ and BSQ have them: their numbers, and entropies of how they are used."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Codebook, Scalar, Tokens
from robustok.tokenizer.quantizers.quantized import ImplicitCodes, check_codes

TINY = 1e-12  # keeps a logarithm finite; p log p is 0 there


class OfBits:
    """A config of binary codes."""

    bits: int
    group: int
    temperature: float

    @property
    def codebook_size(self) -> int:
        """Number of codes, K."""
        return 2**self.bits

    @property
    def width(self) -> int:
        """Width of a code, d."""
        return self.bits

    def check(self) -> None:
        """Raises ValueError for what binary codes cannot be made or measured with."""
        if min(self.bits, self.group) < 1 or not self.temperature > 0:
            raise ValueError(
                "binary codes have at least 1 bit, entropy groups of at least 1 and a temperature above 0, "
                f"not {self.bits}, {self.group} and {self.temperature}"
            )
        check_codes(self.codebook_size, "take at most 20 bits")


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


class BinaryCodes(ImplicitCodes):
    """What quantizers share whose codes are signs."""

    codebook: Codebook  # (k, d); bit i of a token is 1 where channel i is positive

    def __init__(self, config: Any, codebook: Codebook):
        super().__init__()
        self.config = config
        self.across = alone  # a batch may be worked off in several places; then set from there
        self.register_buffer("codebook", codebook, persistent=False)

    def entropy_term(self, logits: Float[Tensor, "b n d"]) -> Scalar:
        """What the config asks of latents, given the log-odds of each channel's upper sign."""
        config = self.config
        if not config.entropy:
            return logits.new_zeros(())
        of_each, of_all = entropies(torch.sigmoid(logits.flatten(0, 1)), config.group, self.across)
        return config.entropy * (of_each - config.diversity * of_all)


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
