"""Previews: named pictures as PNG files."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from robustok.runtime.checkpoint import write_bytes
from robustok.shapes import to_pixels

Picture: TypeAlias = Tensor | Image.Image  # images (b 3 h w) or (3 h w) in [-1, 1], or a finished picture


def write_previews(pictures: Mapping[str, Image.Image], folder: Path, step: int) -> None:
    """Write `previews/{name}_{step}.png`. Raises OSError."""
    for name, picture in pictures.items():
        data = io.BytesIO()
        picture.save(data, "PNG")
        write_bytes(folder / "previews" / f"{name}_{step:07d}.png", data.getvalue())


def as_image(picture: Picture) -> Image.Image:
    """A picture as PIL has it; a batch of images becomes a grid, as square as it goes."""
    if isinstance(picture, Image.Image):
        return picture
    images = picture.detach().cpu()
    if images.ndim == 3:
        images = images.unsqueeze(0)
    b, c, h, w = images.shape
    columns = math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    cells = torch.full((rows * columns, c, h, w), 255, dtype=torch.uint8)
    cells[:b] = images if images.dtype == torch.uint8 else to_pixels(images)
    sheet = cells.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return Image.fromarray(sheet.numpy())
