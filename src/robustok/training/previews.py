"""Previews: named pictures as PNG files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from robustok.runtime.pictures import sheet, write_png
from robustok.shapes import to_pixels

Picture: TypeAlias = Tensor | Image.Image  # images (b 3 h w) or (3 h w) in [-1, 1], or a finished picture


def write_previews(pictures: Mapping[str, Image.Image], folder: Path, step: int) -> None:
    """Write `previews/{name}_{step}.png`. Raises OSError."""
    for name, picture in pictures.items():
        write_png(folder / "previews" / f"{name}_{step:07d}.png", picture)


def as_image(picture: Picture) -> Image.Image:
    """A picture as PIL has it; a batch of images becomes a grid, as square as it goes."""
    if isinstance(picture, Image.Image):
        return picture
    images = picture.detach().cpu()
    if images.ndim == 3:
        images = images.unsqueeze(0)
    pixels = images if images.dtype == torch.uint8 else to_pixels(images)
    return sheet(pixels, math.ceil(math.sqrt(len(pixels))), fill=255)
