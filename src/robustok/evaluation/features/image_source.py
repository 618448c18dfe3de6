"""Images to score, by index: what a set of them offers, and whether their range is the one wanted."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from robustok.runtime.seeding import spread
from robustok.runtime.words import counted, in_short
from robustok.shapes import Images, Pixels, to_pixels

Progress = Callable[[int, int], None]  # called with the number of images that are done, and of all

BLOCK = 250  # images that are read at once
LOOKED_AT = 20  # images, spread over a set, that tell its range


@runtime_checkable
class ImageSource(Protocol):
    """Images to score, by index, and what they are (their hash among it).

    A source whose `known_range` is True, as those of files, is not asked whether it might be in [0, 1].
    """

    def __len__(self) -> int: ...
    def images(self, indices: Int[Tensor, " b"]) -> Images: ...
    def describe(self) -> dict[str, Any]: ...


def check_set(images: object) -> None:
    """Raises ValueError for what is no set of images, such as a tensor or a path."""
    if not isinstance(images, ImageSource):
        raise ValueError(f"{in_short(images)} is no set of images; open one: robustok.data.open_images(path, size)")


def images_at(source: ImageSource, indices: Int[Tensor, " b"]) -> Images:
    """Images of a source, in float32; arrays of numpy become tensors. Raises ValueError for another shape."""
    found: Any = source.images(indices)
    found = torch.tensor(found) if isinstance(found, np.ndarray) else found
    if found.ndim != 4 or found.shape[:2] != (len(indices), 3):
        raise ValueError(
            f"{counted(len(indices), 'image')} of {source.describe().get('name')} came as {tuple(found.shape)}; wanted "
            "(images, 3, height, width): repeat a gray channel three times, put channels before height"
        )
    return found.float()


def pixels_of(images: Images) -> Pixels:
    """Images in [-1, 1] as pixels. Raises ValueError for NaN and for what is plainly in another range."""
    if images.isnan().any():
        raise ValueError("the images hold NaN; look for broken files")
    low, high = float(images.min()), float(images.max())
    if low < -1.001 or high > 1.001:
        raise ValueError(f"images run from {low:.3g} to {high:.3g}; scale them to [-1, 1]: pixels / 127.5 - 1")
    return to_pixels(images)


def check_range(images: ImageSource) -> None:
    """Raises ValueError for images in [0, 1], which no single image gives away: none of many is half dark.

    It is a guess, for arrays that somebody scaled; the bytes of files say themselves what is black.
    """
    check_set(images)
    if len(images) < 2:
        raise ValueError(f"{counted(len(images), 'image')} cannot be scored; give at least two, better some thousands")
    if getattr(images, "known_range", False) or len(images) < LOOKED_AT:
        return
    some = images_at(images, spread(LOOKED_AT, len(images)))
    if some.min() >= 0:
        raise ValueError(
            f"images run from {float(some.min()):.3g} to {float(some.max()):.3g}, as if 0 were black; scale them to "
            "[-1, 1]: 2 * images - 1; or, where they are that bright, give the set an attribute known_range = True"
        )
