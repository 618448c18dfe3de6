"""Images to score, by index: what a set of them offers, and whether their range is the one wanted."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from robustok.runtime.seeding import spread
from robustok.runtime.words import counted, in_short, reason
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
    """Images of a source, in float32; arrays of numpy become tensors. Raises ValueError for another shape or number."""
    try:
        found: Any = source.images(indices)
    except IndexError as error:
        raise ValueError(
            f"{_name(source)} has {counted(len(source), 'image')} by its length, but images {int(indices.min())} to "
            f"{int(indices.max())} cannot be had ({reason(error)}); let its length be the number of images"
        ) from error
    found = torch.tensor(found) if isinstance(found, np.ndarray) else found
    if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] != 3:
        came = tuple(found.shape) if isinstance(found, Tensor) else in_short(found)
        raise ValueError(
            f"{counted(len(indices), 'image')} of {_name(source)} came as {came}; wanted "
            "(images, 3, height, width): repeat a gray channel three times, put channels before height"
        )
    if len(found) != len(indices):
        raise ValueError(
            f"{counted(len(indices), 'image')} of {_name(source)} came as {tuple(found.shape)}; wanted one for each "
            f"index, of which its length says that there are {len(source)}"
        )
    return found.float()


def _name(source: ImageSource) -> Any:
    return source.describe().get("name")


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
