"""One picture: an image file to RGB, and RGB to a square as the field crops it.

The crops are those of ADM (Dhariwal and Nichol 2021, `guided_diffusion/image_datasets.py`), which made the
published reference statistics. Color profiles are not applied, as nowhere in the field.
"""

from collections.abc import Sequence
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

Square: TypeAlias = UInt8[np.ndarray, "h h 3"]

TURNS = {  # by EXIF's orientation: what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SMALLEST_CROP = 0.8  # side of a random crop as a fraction of the picture's shorter side, at least


def read(path: Path | BytesIO, enough: int | None = None) -> Image.Image:
    """The first frame of a file, or of its bytes, upright (EXIF) and in RGB. Raises as Pillow does for broken files.

    With `enough`, a JPEG whose shorter side is 2, 4 or 8 times that many pixels is decoded at a half, a quarter or an
    eighth of its size: faster, but its blocks are not averaged as the box filter of `resize` would.
    """
    with Image.open(path) as image:
        if enough is not None:
            image.draft(None, (enough, enough))
        return to_rgb(_upright(image))


def check(path: Path | BytesIO) -> tuple[int, int]:
    """Width and height as stored, having decoded every byte; raises as `read` does, in less time for JPEG."""
    with Image.open(path) as image:
        size = image.size
        image.draft(None, (1, 1))
        to_rgb(_upright(image))
        return size


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; damaged EXIF is read as none, for the picture is whole."""
    image.load()  # first, for what this raises is about the picture
    try:
        turned = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser of EXIF raises nearly anything
        return image
    return image if turned is None else image.transpose(turned)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16-bit gray scaled, CMYK as ink, transparency on white as a page would show it."""
    if image.mode.startswith("I"):  # I;16 and its byte orders; I is how older Pillow opens a 16-bit PNG
        image = _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("mode F: floating-point pixels have no agreed range; convert the file to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode I: values {values.min()} to {values.max()}, wanted the 16-bit range 0 to 65535")
    if image.mode == "I" and image.format != "PNG" and 0 < values.max() < 256:  # as 16 bits it would be nearly black
        raise ValueError(f"mode I: values up to {values.max()}, which may be of 8 bits or of 16; convert the file to 8")
    gray = Image.fromarray((values / 257).round().astype(np.uint8))  # Pillow's own conversion clips at 255
    if "transparency" in image.info:
        gray.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return gray


def resize(image: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side `side`: halved by box filter while it can be, then bicubic (ADM)."""
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int) -> Square:
    """The middle of the resized picture, ADM's `center_crop_arr`."""
    image = resize(image, size)
    return _crop(image, (image.width - size) // 2, (image.height - size) // 2, size)


def random_crop(image: Image.Image, size: int, draw: Sequence[float]) -> Square:
    """ADM's `random_crop_arr`; `draw` is three uniform numbers in [0, 1): for the zoom, x and y."""
    zoom, x, y = draw
    image = resize(image, size + int(zoom * (ceil(size / SMALLEST_CROP) - size + 1)))
    return _crop(image, int(x * (image.width - size + 1)), int(y * (image.height - size + 1)), size)


def five_crops(image: Image.Image, size: int, zoom: float) -> tuple[Square, ...]:
    """The corners (row by row) and the middle of the center crop to `zoom` times `size`.

    With their mirror images these are the ten crops that LlamaGen encodes (`extract_codes_c2i.py`, zoom 1.1).
    """
    side = int(size * zoom)
    square = Image.fromarray(center_crop(image, side))
    far, middle = side - size, round((side - size) / 2)
    corners = ((0, 0), (far, 0), (0, far), (far, far), (middle, middle))
    return tuple(_crop(square, x, y, size) for x, y in corners)


def to_floats(square: Square, out: np.ndarray) -> None:
    """Write a picture into `out` (3 h h) in [-1, 1], to the bit as `shapes.to_images`, without torch's threads."""
    out[:] = square.transpose(2, 0, 1)
    out /= np.float32(127.5)
    out -= 1


def _crop(image: Image.Image, x: int, y: int, size: int) -> Square:
    return np.array(image.crop((x, y, x + size, y + size)))
