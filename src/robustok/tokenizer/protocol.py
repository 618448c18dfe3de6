"""What robustok asks of a tokenizer, whoever made it, and whether that makes tokens or latents: decided here alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.quantizer import Quantized

ASKED = ("image_size", "tokens_per_image", "decoder", "device", "last_layer", "fingerprint", "save_pretrained")
ASKED_OF_CODES = ("quantize", "lookup", "straight_through")


@runtime_checkable
class TokenizerLike(Protocol):
    """Images to latents and back; with a codebook, to tokens too.

    Latents are as a generator models them: scaled, shifted and in a sequence (b n d); pixels are in [-1, 1]. To be
    scored, `device`, `encode` and `decode` are enough, and with a codebook `quantize` and `lookup`.
    """

    image_size: int  # side in pixels
    tokens_per_image: int  # n, of all scales where there are several
    decoder: nn.Module  # what post-training trains; `decode` calls it

    @property
    def codebook(self) -> Codebook | None: ...  # None, or missing: there are no tokens, generators model latents
    @property
    def device(self) -> torch.device: ...
    @property
    def last_layer(self) -> Tensor: ...  # the decoder's weight that balances reconstruction and adversarial loss
    def encode(self, images: Images) -> Latents: ...
    def decode(self, codes: Latents) -> Images: ...
    def fingerprint(self) -> str: ...
    def save_pretrained(self, folder: str | Path, **about: Any) -> None: ...

    # With a codebook:
    def quantize(self, latents: Latents) -> Quantized: ...
    def lookup(self, tokens: Tokens) -> Latents: ...
    def straight_through(self, latents: Latents, codes: Latents) -> Latents: ...  # `codes`, its gradient to the latents

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return hasattr(other, "encode") and hasattr(other, "decode")


def codebook_of(tokenizer: object) -> Codebook | None:
    """The codes of a tokenizer that makes tokens; None for one that makes latents."""
    return getattr(tokenizer, "codebook", None)


def books_of(tokenizer: object) -> int:
    """How many codebooks of equal size lie one below the other in a tokenizer's: a code's neighbors are in its own."""
    return getattr(getattr(tokenizer, "quantizer", None), "books", 1)


def kind_of(tokenizer: object) -> Literal["tokens", "latents"]:
    """What generators of a tokenizer model: its tokens, or its latents where there is no codebook."""
    return "latents" if codebook_of(tokenizer) is None else "tokens"


def codes_of(tokenizer: TokenizerLike, generated: Tensor) -> Latents:
    """What a tokenizer decodes, on its device: the codes of tokens (b n); latents (b n d) as they are."""
    generated = generated.to(tokenizer.device)
    return generated.float() if generated.is_floating_point() else tokenizer.lookup(generated)


def as_module(tokenizer: object) -> nn.Module:
    """The same, as what can be trained and moved. Raises ValueError for no `nn.Module`, or one that lacks something."""
    if not isinstance(tokenizer, nn.Module):
        raise ValueError(f"a {type(tokenizer).__name__} cannot be trained: it is no torch.nn.Module; wrap it in one")
    asked = ASKED if codebook_of(tokenizer) is None else ASKED + ASKED_OF_CODES
    if missing := [name for name in asked if not hasattr(tokenizer, name)]:
        raise ValueError(
            f"a {type(tokenizer).__name__} cannot be trained: it has no {', no '.join(missing)}; add what "
            "robustok.tokenizer.protocol.TokenizerLike says"
        )
    return tokenizer


@contextmanager
def decoding_with(tokenizer: TokenizerLike, decoder: nn.Module) -> Iterator[None]:
    """The tokenizer decodes with another decoder for the while."""
    own = tokenizer.decoder
    tokenizer.decoder = decoder
    try:
        yield
    finally:
        tokenizer.decoder = own
