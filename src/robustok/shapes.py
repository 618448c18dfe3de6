"""The axes and the nouns of robustok.

Axes, in the order in which they appear:

    b  images in a batch          c  channels, always 3 (RGB)      h w  height and width in pixels
    n  tokens of an image         d  width of a code               k    codes in the codebook
    m  neighbors of a code       f  width of a feature

Pixel values are floats in [-1, 1] (`Images`) wherever something is learnt and uint8 (`Pixels`) wherever
something is scored or saved; `to_pixels` is the one place where they are rounded.
"""

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b 3 h w"]
Pixels: TypeAlias = UInt8[Tensor, "b 3 h w"]
Latents: TypeAlias = Float[Tensor, "b n d"]
Tokens: TypeAlias = Int[Tensor, "b n"]
TokenMask: TypeAlias = Bool[Tensor, "b n"]
Codebook: TypeAlias = Float[Tensor, "k d"]
Neighbors: TypeAlias = Int[Tensor, "k m"]
Labels: TypeAlias = Int[Tensor, " b"]
Features: TypeAlias = Float[Tensor, "b f"]
Scalar: TypeAlias = Float[Tensor, ""]


def to_pixels(images: Images) -> Pixels:
    """Round images in [-1, 1] to uint8; values outside are clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_images(pixels: Pixels) -> Images:
    """Pixels as floats in [-1, 1]; `to_pixels(to_images(p))` is `p`."""
    return pixels.float() / 127.5 - 1
