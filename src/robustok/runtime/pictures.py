"""Pictures as PNG files, and many images on one sheet."""

import io
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from robustok.runtime.checkpoint import write_bytes


def sheet(pixels: UInt8[Tensor, "b c h w"], columns: int, fill: int = 0) -> Image.Image:
    """Images row by row, without gaps between them; places that are left over at the end have the value `fill`."""
    b, c, h, w = pixels.shape
    rows = -(-b // columns)
    cells = torch.full((rows * columns, c, h, w), fill, dtype=torch.uint8)
    cells[:b] = pixels
    whole = cells.view(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return Image.fromarray(whole.numpy())


def png(picture: Image.Image) -> bytes:
    """The contents of a PNG file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG file, whole or not at all. Raises OSError."""
    write_bytes(path, png(picture))
