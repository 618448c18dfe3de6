"""An npz file of images as an image source, as ADM's and most samplers write them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustok.data.images import Indices
from robustok.runtime.checkpoint import short_hash
from robustok.runtime.npz import array_names, center_square, checksum, map_array, read_array
from robustok.runtime.places import home
from robustok.shapes import Images, to_images


class NpzImages:
    """The images arr_0 of an npz file: uint8, (count, height, width, 3). Only those asked for are in memory.

    Those that are not square are cropped as `decoding.center_crop` crops files at their own size. `labels` (count,) are
    arr_1 where it holds one whole number for each image, else 0. Raises ValueError for a file that is missing, cut
    short or compressed beyond what the disk holds, and for an arr_0 of another type or shape.
    """

    known_range = True  # 0 is black

    def __init__(self, path: str | Path):
        self.path = path = home(path)
        self.array = map_array(path, "arr_0")
        if self.array.dtype != np.uint8 or self.array.ndim != 4 or self.array.shape[-1] != 3:
            raise ValueError(
                f"arr_0 in {path} is {self.array.dtype} of shape {self.array.shape}; images are uint8 from 0 to 255, "
                "(count, height, width, 3)"
            )
        if not self.array.size:
            raise ValueError(f"arr_0 in {path} has shape {self.array.shape}, so there is no image; give at least two")
        self.labels = torch.zeros(len(self.array), dtype=torch.int64)
        told = read_array(path, "arr_1") if "arr_1" in array_names(path) else None
        if told is not None and told.shape == self.labels.shape and told.dtype.kind in "iu" and told.max() < 2**63:
            self.labels = torch.from_numpy(told.astype(np.int64))

    def __len__(self) -> int:
        return len(self.array)

    @property
    def size(self) -> int:
        """Side in pixels, of the shorter side."""
        return min(self.array.shape[1:3])

    def images(self, indices: Indices) -> Images:
        square = center_square(self.array[indices.numpy()])
        return to_images(torch.from_numpy(square).permute(0, 3, 1, 2).contiguous())

    def describe(self) -> dict[str, Any]:
        """The entries that scores record. The hash is of the checksum that the file keeps of its pixels."""
        return {
            "name": self.path.name,
            "view": "as they are" if len(set(self.array.shape[1:3])) == 1 else f"center crop to {self.size}",
            "count": len(self),
            "hash": short_hash(checksum(self.path, "arr_0").encode()),
        }
