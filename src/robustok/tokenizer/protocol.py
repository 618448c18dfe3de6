"""What robustok asks of a tokenizer, whoever made it, and whether that makes tokens or latents: decided here alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
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
    """What a tokenizer decodes, on its device: the codes of tokens (b n); latents (b n d) as they are.

    Raises ValueError where the codes of tokens are none.
    """
    generated = generated.to(tokenizer.device)
    if generated.is_floating_point():
        return generated.float()
    codes: Any = tokenizer.lookup(generated.long())
    if not isinstance(codes, Tensor) or not codes.is_floating_point() or len(codes) != len(generated):
        raise ValueError(
            f"the lookup of a {type(tokenizer).__name__} makes {made_of(codes)} of tokens {tuple(generated.shape)}; "
            f"wanted a float tensor of shape ({len(generated)}, tokens, dimensions)"
        )
    return _as_weights(tokenizer, codes)


def _as_weights(tokenizer: object, codes: Tensor) -> Tensor:
    """Codes in float32, as all is computed, unless weights are in double precision, too."""
    if not isinstance(tokenizer, nn.Module):
        return codes.float()
    plain = codes.dtype == torch.float64 and all(w.dtype != torch.float64 for w in tokenizer.parameters())
    return codes.float() if plain else codes


def check_table_of_codes(codebook: Any) -> None:
    """Raises ValueError for a codebook that is no tensor (codes, dimensions)."""
    if not isinstance(codebook, Tensor) or codebook.ndim != 2:
        remedy = {nn.Embedding: "give its weight", np.ndarray: "give torch.from_numpy(codebook).float()"}
        raise ValueError(
            f"the codebook is {made_of(codebook)}; wanted a float tensor of shape (codes, dimensions)"
            + "".join(f": {words}" for kind, words in remedy.items() if isinstance(codebook, kind))
        )


def checked_tokens(quantized: Any, count: int, codes: int) -> Tokens:
    """The tokens of `count` images, of a codebook of so many codes, as int64 (b n). Raises ValueError for others."""
    tokens = getattr(quantized, "tokens", None)
    if tokens is None:
        raise ValueError(
            f"quantize returns {made_of(quantized)} without tokens; wanted what has them as an attribute, such as "
            "robustok.tokenizer.quantizer.Quantized"
        )
    whole = isinstance(tokens, Tensor) and not (tokens.is_floating_point() or tokens.dtype == torch.bool)
    if not whole or tokens.ndim != 2 or len(tokens) != count:
        raise ValueError(
            f"quantize makes tokens that are {made_of(tokens)} of {count} images; wanted a tensor of whole numbers of "
            f"shape ({count}, tokens)"
        )
    low, high = (int(end) for end in tokens.aminmax()) if tokens.numel() else (0, 0)
    if low < 0 or high >= codes:
        raise ValueError(f"quantize makes tokens from {low} to {high}; of {codes} codes they go from 0 to {codes - 1}")
    return tokens.long()


def made_of(value: object) -> str:
    """What a part of a tokenizer made, in words: its type, and shape and numbers of what has them."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array of numpy"
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


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
