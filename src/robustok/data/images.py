"""Sets of images: what they all offer, the embedded Fashion-MNIST, and parts of any set.

Every set hands out `Images` in [-1, 1] by index, in two views: `images`, fixed, for scores and token caches;
`training_images`, augmented as the random numbers given say, so that an image's view depends on its own row alone.
"""

import gzip
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from robustok.data.order import Windows
from robustok.runtime.checkpoint import short_hash
from robustok.runtime.seeding import mixed
from robustok.runtime.whole_numbers import whole_number, whole_numbers
from robustok.shapes import Images, Labels, to_images

Indices: TypeAlias = Int[Tensor, " b"]
DRAWS = 4  # random numbers of a training view: zoom, x and y of the crop, mirrored or not
Draws: TypeAlias = Float64[Tensor, f"b {DRAWS}"]  # in [0, 1), a row per image


@runtime_checkable
class ImageSet(Protocol):
    """A set of images by index, as training and scoring ask for them, wherever they come from.

    A set that is read faster shard by shard also has `windows`, an `order.Windows`; one whose images are larger than
    `size` has `five_crops`, as `image_files.ImageFiles`.
    """

    size: int  # side of the images in pixels
    flip: bool  # whether a mirrored image belongs to the set as much as the image
    classes: tuple[str, ...]  # names; a label is an index into them
    labels: Tensor  # (len,) int64

    def images(self, indices: Indices) -> Images: ...
    def training_images(self, indices: Indices, draws: Draws) -> Images: ...
    def describe(self) -> dict[str, Any]: ...

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Indices) -> "Subset":
        return Subset(self, indices)


class FashionMNIST(ImageSet):
    """The embedded set: clothes, 10 classes, 60,000 images to train on and 10,000 to score on.

    Kept as 28 x 28 gray bytes (47 MB); handed out as RGB, padded to `size` with the black of the background.
    The training view is the plain view: the clothes are centered and the shoes point left, so a shifted or
    mirrored image would not belong to the set.
    """

    flip = False
    known_range = True  # 0 is black
    # fmt: off
    classes: tuple[str, ...] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )
    # fmt: on

    def __init__(self, split: Literal["train", "validation"], size: int = 32):
        if split not in ("train", "validation"):
            raise ValueError(f"split is {split!r}; choose 'train' or 'validation'")
        side = whole_number(size)
        if side is None or side < 28:
            raise ValueError(f"size is {size!r}; the images are 28 pixels wide and are padded, so ask for 28 or more")
        self.split, self.size = split, side
        self.pixels, self.labels, self.hash = _read_fashion_mnist(split)

    def images(self, indices: Indices) -> Images:
        before, after = (self.size - 28) // 2, (self.size - 27) // 2
        padded = F.pad(self.pixels[whole_numbers(indices, "indices")], (before, after, before, after))
        return to_images(padded.unsqueeze(1).expand(-1, 3, -1, -1))

    def training_images(self, indices: Indices, draws: Draws) -> Images:
        return self.images(indices)

    def describe(self) -> dict[str, Any]:
        """The entries that scores and caches record: the hash is of all pixels and labels."""
        about = {"name": "fashion-mnist", "split": self.split, "view": f"padded to {self.size}"}
        return {**about, "count": len(self), "hash": self.hash}


@cache
def _read_fashion_mnist(split: str) -> tuple[UInt8[Tensor, "count 28 28"], Labels, str]:
    folder, prefix = resources.files("robustok.data") / "fashion_mnist", "train" if split == "train" else "t10k"
    pixels, labels = (
        bytearray(gzip.decompress((folder / f"{prefix}-{name}-ubyte.gz").read_bytes())[header:])
        for name, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images, classes = (torch.frombuffer(part, dtype=torch.uint8) for part in (pixels, labels))
    return images.view(-1, 28, 28), classes.long(), short_hash(pixels, labels)


class Subset(ImageSet):
    """Some images of a set, in the order given."""

    def __init__(self, parent: ImageSet, indices: Indices):
        """`indices` may also be an array or a list. Raises ValueError for a mask, and for what is not there."""
        indices = whole_numbers(indices, "indices")
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(parent):
            told = f"{int(indices.min())} to {int(indices.max())}" if len(indices) else "none"
            raise ValueError(f"a subset needs one or more indices from 0 to {len(parent) - 1}, not {told}")
        self.parent, self.indices = parent, indices
        self.size, self.flip, self.classes = parent.size, parent.flip, parent.classes
        self.known_range: bool = getattr(parent, "known_range", False)
        self.labels = parent.labels[self.indices]

    @cached_property
    def windows(self) -> Windows | None:
        """The parent's, of the images that are left; none once they were reordered."""
        windows: Windows | None = getattr(self.parent, "windows", None)
        return windows and windows.of(self.indices)

    def images(self, indices: Indices) -> Images:
        return self.parent.images(self.indices[indices])

    def training_images(self, indices: Indices, draws: Draws) -> Images:
        return self.parent.training_images(self.indices[indices], draws)

    def five_crops(self, indices: Indices, zoom: float) -> Float[Tensor, "b 5 3 h w"]:
        """As `ImageFiles.five_crops`. Raises ValueError where the images are not larger than what is taken of them."""
        return five_crops(self.parent, self.indices[indices], zoom)

    def describe(self) -> dict[str, Any]:
        parent = self.parent.describe()
        chosen = short_hash(parent["hash"].encode(), self.indices.numpy().tobytes())
        return {**parent, "count": len(self), "hash": chosen}


def five_crops(images: ImageSet, indices: Indices, zoom: float) -> Float[Tensor, "b 5 3 h w"]:
    """Corners and middle of images at `zoom` times the size. Raises ValueError for a set that has only one view."""
    if not hasattr(images, "five_crops"):
        name = images.describe()["name"]
        raise ValueError(f"the images of {name} are not larger than {images.size} pixels; encode them without crops")
    crops: Tensor = images.five_crops(indices, zoom)
    return crops


def hold_out(images: ImageSet, count: int) -> tuple[Subset, Subset]:
    """The set in two: what is left, and `count` images, the same fraction of every class, whatever their order."""
    held = whole_number(count)
    if held is None or not 1 <= held < len(images):
        choice = f"choose 1 to {len(images) - 1}" if len(images) > 1 else "give more images"
        raise ValueError(f"cannot hold out {count!r} of {len(images)} images; {choice}")
    everything = torch.arange(len(images))
    drawn = mixed(everything).argsort()
    by_class = drawn[images.labels[drawn].argsort(stable=True)]
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[by_class[torch.arange(held) * len(images) // held]] = True
    return images.subset(everything[~chosen]), images.subset(everything[chosen])


def evenly_ordered(images: ImageSet) -> Subset:
    """The set in an order whose every beginning, and every end, has the same fraction of every class."""
    drawn = mixed(torch.arange(len(images))).argsort()
    by_class = drawn[images.labels[drawn].argsort(stable=True)]
    counts = images.labels.bincount()
    labels = images.labels[by_class]
    places = torch.arange(len(images)) - (counts.cumsum(dim=0) - counts)[labels]  # of each image in its class
    return images.subset(by_class[((places + 0.5) / counts[labels]).argsort(stable=True)])
