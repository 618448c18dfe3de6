"""What all quantizers share: their result, the gradient past the rounding, and how evenly codes are used."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Codebook, Latents, Scalar, Tokens

MOST_CODES = 2**20  # of an implicit codebook, which is kept as a table all the same


class Quantized(NamedTuple):
    """What every quantizer returns."""

    codes: Tensor  # (b, n, d), gradients pass through to the latents
    tokens: Tensor  # (b, n); of several levels (b, tokens of all levels), the first level's first
    loss: Tensor  # scalar: what the quantizer asks of latents and codes, as its file says


@runtime_checkable
class Quantizer(Protocol):
    """What a tokenizer asks of its quantizer, whatever the kind."""

    config: Any  # with `codebook_size` (k) and `width` (d)

    @property
    def codebook(self) -> Codebook: ...
    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]: ...  # to where codes are compared
    def __call__(self, latents: Latents) -> Quantized: ...
    def straight_through(self, latents: Latents, codes: Latents) -> Latents: ...  # latents as `project` returns them
    def lookup(self, tokens: Tokens) -> Float[Tensor, "b _ d"]: ...


def straight_through(latents: Latents, codes: Latents) -> Latents:
    """`codes` going forward, `latents` going backward (van den Oord et al. 2017, sec. 3.2)."""
    return latents + (codes - latents).detach()


class ImplicitCodes(nn.Module):
    """What quantizers share whose codes follow from their config: all codes are in a table, and none is learnt."""

    codebook: Codebook

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, the gradient to the latents as `project` returns them."""
        return straight_through(latents, codes)

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens: (b, n, d)."""
        return F.embedding(tokens, self.codebook)


def code_use(tokens: Tensor, codebook_size: int) -> dict[str, Scalar]:
    """Share of codes used by any of the tokens, and the perplexity of their frequencies (1 to K)."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size).float()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"codebook_use": (counts > 0).float().mean(), "codebook_perplexity": entropy.exp()}


def check_codes(codes: int, remedy: str) -> None:
    """Raises ValueError for an implicit codebook too large to be listed."""
    if codes > MOST_CODES:
        raise ValueError(f"an implicit codebook has at most 2^20 codes here, not {codes:,}; {remedy}")
