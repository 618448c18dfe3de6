"""Tokenizers as scores see them: images to tokens or latents, and these to pixels."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from robustok.layers import check_float32, evaluating
from robustok.layers import precision as precision
from robustok.runtime.words import counted
from robustok.shapes import Images, Pixels, to_pixels
from robustok.tokenizer.protocol import (
    TokenizerLike,
    check_table_of_codes,
    checked_tokens,
    codebook_of,
    codes_of,
    made_of,
)

BYTES = 20  # no decoder of images in [-1, 1] makes that, and one of bytes does
MANY = 20  # images none of which is half dark: that is odd
MIDDLE = 127  # of 255: the pixel of 0
SPAN = 64  # half of what there is from there to 1; a decoder that has collapsed has less


@torch.no_grad()
def encoded(tokenizer: TokenizerLike, images: Images, batch_size: int = 125) -> Tensor:
    """The tokens (b n) of images, or the latents (b n d) of a tokenizer without a codebook, on the CPU.

    Raises ValueError for latents that are not finite, and for what are no latents or no tokens.
    """
    check_float32(tokenizer)
    codebook = codebook_of(tokenizer)
    if codebook is not None:
        check_table_of_codes(codebook)
    parts = []
    with evaluating(tokenizer):
        for part in images.split(batch_size):
            latents = tokenizer.encode(part.to(tokenizer.device))
            _check_latents(latents, len(part), tokenizer, whole=codebook is None)
            if codebook is None:
                parts.append(latents.cpu())
            else:
                tokens = checked_tokens(tokenizer.quantize(latents), len(part), len(codebook))
                parts.append(tokens.cpu())
    return torch.cat(parts)


def _check_latents(latents: Any, count: int, tokenizer: TokenizerLike, *, whole: bool) -> None:
    """Raises ValueError for what are no latents of so many images: of any shape, or where `whole` (b n d)."""
    if not isinstance(latents, Tensor):
        raise ValueError(
            f"a {type(tokenizer).__name__} encodes to a {type(latents).__name__}, not to latents (b n d); "
            "robustok.score_tokenizer, sample and post_train take raw models of diffusers"
        )
    if len(latents) != count or (whole and latents.ndim != 3):
        raise ValueError(
            f"a {type(tokenizer).__name__} encodes {counted(count, 'image')} to {made_of(latents)}; wanted latents of "
            f"shape ({count}, tokens, dimensions)"
        )
    _check_finite(latents, "encoder")


@torch.no_grad()
def decoded(tokenizer: TokenizerLike, tokens: Tensor, batch_size: int = 125) -> Iterator[Pixels]:
    """The images that tokens (b n) or latents (b n d) stand for, batch by batch, on the CPU.

    Raises ValueError for images that are not finite.
    """
    check_float32(tokenizer)
    for part in tokens.split(batch_size):
        with evaluating(tokenizer):
            output = tokenizer.decode(codes_of(tokenizer, part))
        _check_images(output, len(part))
        yield to_pixels(output).cpu()


def seems_from_0(lowest: int, highest: int) -> bool:
    """Tell whether the extremes of pixels, of many images, look like those of a decoder to which 0 is black."""
    return lowest >= MIDDLE and highest - lowest > SPAN


def _check_images(output: Any, count: int) -> None:
    """Raises ValueError for what is no image in [-1, 1], which would be clamped in silence."""
    floats = isinstance(output, Tensor) and output.is_floating_point()
    if not floats or output.ndim != 4 or output.shape[:2] != (count, 3):
        made = f"{tuple(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the decoder makes {made} of {counted(count, 'image')}; wanted floats in [-1, 1] of shape "
            f"({count}, 3, height, width)"
        )
    _check_finite(output, "decoder")
    low, high = (float(end) for end in output.detach().aminmax())
    if high > BYTES and low > -high / 2:
        raise ValueError(
            f"the decoder makes images from {low:.3g} to {high:.3g}; scale what it decodes to [-1, 1]: "
            "pixels / 127.5 - 1"
        )


def _check_finite(values: Tensor, part: str) -> None:
    broken = int((~values.flatten(1).isfinite().all(dim=1)).sum())
    if broken:  # rounded to pixels, NaN would become some color
        raise ValueError(
            f"the {part} makes NaN or infinity of {broken} of {len(values)} images; look at its weights, and for "
            "half-precision overflow"
        )
