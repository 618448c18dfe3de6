"""Sets of images: the embedded Fashion-MNIST, any folder, and parts of either.

Every set hands out `Images` in [-1, 1] by index, in two views: `images`, fixed, for scores and token caches;
`training_images`, augmented at random from the generator given.
"""

import gzip
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Generator, Tensor
from torch.nn import functional as F

from robustok.data import decoding
from robustok.shapes import Images, Labels, to_images

Indices: TypeAlias = Int[Tensor, " b"]


@runtime_checkable
class ImageSet(Protocol):
    """What training and scoring ask of images, wherever they come from."""

    size: int  # side of the images in pixels
    flip: bool  # whether a mirrored image belongs to the set as much as the image
    classes: tuple[str, ...]  # names; a label is an index into them
    labels: Tensor  # (len,) int64

    def __len__(self) -> int: ...
    def images(self, indices: Indices) -> Images: ...
    def training_images(self, indices: Indices, generator: Generator) -> Images: ...
    def describe(self) -> dict[str, Any]: ...
    def subset(self, indices: Indices) -> "Subset": ...


class FashionMNIST:
    """The embedded set: clothes, 10 classes, 60,000 images to train on and 10,000 to score on.

    Kept as 28 x 28 gray bytes (47 MB); handed out as RGB, padded to `size` with the black of the background.
    The training view is the plain view: the clothes are centered and the shoes point left, so a shifted or
    mirrored image would not belong to the set.
    """

    flip = False
    classes: tuple[str, ...] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    def __init__(self, split: Literal["train", "validation"], size: int = 32):
        if split not in ("train", "validation"):
            raise ValueError(f"split is {split!r}; choose 'train' or 'validation'")
        if size < 28:
            raise ValueError(f"size is {size}; the images are 28 pixels wide and are padded, so ask for 28 or more")
        self.split, self.size = split, size
        self.pixels, self.labels, self.hash = _read_fashion_mnist(split)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Indices) -> Images:
        before = (self.size - 28) // 2
        after = self.size - 28 - before
        padded = F.pad(self.pixels[indices], (before, after, before, after))
        return to_images(padded.unsqueeze(1).expand(-1, 3, -1, -1))

    def training_images(self, indices: Indices, generator: Generator) -> Images:
        return self.images(indices)

    def describe(self) -> dict[str, Any]:
        """What scores and caches record: the hash is of all pixels and labels."""
        return {
            "name": "fashion-mnist",
            "split": self.split,
            "view": f"padded to {self.size}",
            "count": len(self),
            "hash": self.hash,
        }

    def subset(self, indices: Indices) -> "Subset":
        return Subset(self, indices)


@cache
def _read_fashion_mnist(split: str) -> tuple[UInt8[Tensor, "count 28 28"], Labels, str]:
    prefix = {"train": "train", "validation": "t10k"}[split]
    folder = resources.files("robustok.data") / "fashion_mnist"
    pixels, labels = (
        bytearray(gzip.decompress((folder / f"{prefix}-{name}-ubyte.gz").read_bytes())[header:])
        for name, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return (
        torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 28, 28),
        torch.frombuffer(labels, dtype=torch.uint8).long(),
        _short_hash(pixels, labels),
    )


class Broken(NamedTuple):
    """A file that could not be decoded."""

    file: Path
    reason: str


class ImageFolder:
    """The images of a folder: one sub-folder per class, or all in one place, which makes one class.

    Files are PNG, JPEG, WebP, BMP, GIF or TIFF, known by their suffix, in the order of their names; see
    `decoding` for how each kind becomes RGB. `images` is ADM's center crop, `training_images` its random crop
    and, if `flip`, a mirror image half of the time.

    errors   "skip": a broken file is left out, with one warning for all; `broken` lists them.
             "raise": a broken file is a ValueError.
             "defer": nothing is decoded in advance, which saves minutes on a million images; the batch that
             meets a broken or too small file raises a ValueError.
    upscale  whether pictures smaller than `size` are enlarged, as ADM does to ImageNet, rather than refused
    workers  threads that decode; None: a few more than there are cores
    """

    SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        errors: Literal["skip", "raise", "defer"] = "skip",
        upscale: bool = False,
        flip: bool = True,
        workers: int | None = None,
    ):
        if errors not in ("skip", "raise", "defer"):
            raise ValueError(f"errors is {errors!r}; choose 'skip', 'raise' or 'defer'")
        if size < 1:
            raise ValueError(f"size is {size}; ask for 1 pixel or more")
        self.path, self.size, self.upscale, self.flip, self.workers = Path(path), size, upscale, flip, workers
        folders = _class_folders(self.path)
        found = {file: label for label, folder in enumerate(folders) for file in _image_files(folder)}
        self.broken = () if errors == "defer" else self._check(list(found))
        if self.broken:
            names = _some([f"{self._name(file)} ({reason})" for file, reason in self.broken])
            what = f"{len(self.broken)} of {len(found)} images in {self.path} cannot be read: {names}"
            if errors == "raise":
                raise ValueError(f"{what}; repair or remove them, or pass errors='skip'")
            warnings.warn(f"{what}; they are skipped", stacklevel=2)
            for file, _ in self.broken:
                del found[file]
        self.files = list(found)
        self.labels = torch.tensor(list(found.values()), dtype=torch.int64)
        self.classes = tuple(folder.resolve().name for folder in folders)
        counts = self.labels.bincount(minlength=len(self.classes)).tolist()
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            raise ValueError(
                f"no image that can be read in {self.path} for class {_some(empty)}; add images, or remove the folder"
            )

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Indices) -> Images:
        return _to_batch(self._map(lambda i: decoding.center_crop(self._read(i), self.size), indices.tolist()))

    def training_images(self, indices: Indices, generator: Generator) -> Images:
        draws = torch.rand(len(indices), 4, generator=generator, dtype=torch.float64).tolist()

        def view(index_and_draw: tuple[int, list[float]]) -> decoding.Square:
            index, (*crop, mirror) = index_and_draw
            square = decoding.random_crop(self._read(index), self.size, crop)
            return square[:, ::-1] if self.flip and mirror < 0.5 else square

        return _to_batch(self._map(view, list(zip(indices.tolist(), draws, strict=True))))

    def describe(self) -> dict[str, Any]:
        """What scores and caches record. The hash is of names and byte counts, for contents take hours."""
        listing = "\n".join(f"{self._name(file)} {file.stat().st_size}" for file in self.files)
        return {
            "name": self.path.resolve().name,
            "view": f"ADM center crop to {self.size}",
            "count": len(self),
            "hash": _short_hash(listing.encode()),
        }

    def subset(self, indices: Indices) -> "Subset":
        return Subset(self, indices)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, items))

    def _read(self, index: int) -> Image.Image:
        file = self.files[index]
        try:
            image = decoding.read(file)
        except Exception as error:
            raise ValueError(
                f"{file} cannot be read ({_reason(error)}); repair or remove it, or pass errors='skip'"
            ) from error
        if not self.upscale and min(image.size) < self.size:
            raise ValueError(self._too_small([(file, image.size)]))
        return image

    def _check(self, files: list[Path]) -> tuple[Broken, ...]:
        """Decodes every file once and returns the broken ones. ValueError: some are smaller than the crop."""

        def check(file: Path) -> Broken | tuple[int, int]:
            try:
                return decoding.check(file)
            except Exception as error:  # strangers' files make Pillow raise nearly anything
                return Broken(file, _reason(error))

        broken, small = [], []
        shares = (files[start : start + 4096] for start in range(0, len(files), 4096))
        outcomes = [outcome for share in shares for outcome in self._map(check, share)]
        for file, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Broken):
                broken.append(outcome)
            elif min(outcome) < self.size and not self.upscale:
                small.append((file, outcome))
        if small:
            raise ValueError(self._too_small(small))
        return tuple(broken)

    def _too_small(self, files: list[tuple[Path, tuple[int, int]]]) -> str:
        names = _some([f"{self._name(file)} ({width} x {height})" for file, (width, height) in files])
        return (
            f"{len(files)} images in {self.path} are smaller than the crop of {self.size} pixels: {names}; "
            f"remove them, choose a smaller size, or pass upscale=True to enlarge them"
        )


class Subset:
    """Some images of a set, in the order given."""

    def __init__(self, parent: ImageSet, indices: Indices):
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(parent):
            raise ValueError(f"a subset needs one or more indices from 0 to {len(parent) - 1}, not {indices.tolist()}")
        self.parent, self.indices = parent, indices.long()
        self.size, self.flip, self.classes = parent.size, parent.flip, parent.classes
        self.labels = parent.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Indices) -> Images:
        return self.parent.images(self.indices[indices])

    def training_images(self, indices: Indices, generator: Generator) -> Images:
        return self.parent.training_images(self.indices[indices], generator)

    def describe(self) -> dict[str, Any]:
        parent = self.parent.describe()
        chosen = _short_hash(parent["hash"].encode(), self.indices.numpy().tobytes())
        return {**parent, "count": len(self), "hash": chosen}

    def subset(self, indices: Indices) -> "Subset":
        return Subset(self, indices)


def hold_out(images: ImageSet, count: int) -> tuple[Subset, Subset]:
    """The set in two: what is left, and `count` images evenly spaced over it, a share of every class."""
    if not 1 <= count < len(images):
        raise ValueError(f"cannot hold out {count} of {len(images)} images; choose 1 to {len(images) - 1}")
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[torch.arange(count) * len(images) // count] = True
    everything = torch.arange(len(images))
    return images.subset(everything[~chosen]), images.subset(everything[chosen])


def _class_folders(path: Path) -> list[Path]:
    """The sub-folders of a folder that has one per class, or the folder itself."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; wanted a folder of images, or one with a sub-folder per class")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and _visible(entry.name))
    loose = [entry for entry in path.iterdir() if entry.is_file() and _is_image(entry.name)]
    filled = [folder.name for folder in folders if next(_walk(folder), None)]
    if loose and filled:
        raise ValueError(
            f"{path} has {len(loose)} images beside the class folders {_some(filled)}; "
            f"move them into a class folder, or all images into one folder"
        )
    if not loose and not filled:
        raise ValueError(
            f"no image found in {path}; wanted {', '.join(ImageFolder.SUFFIXES)} files, "
            f"either directly in it or in one sub-folder per class"
        )
    return [path] if loose else folders


def _image_files(folder: Path) -> list[Path]:
    return sorted(_walk(folder), key=lambda file: file.as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _visible(name)]
        yield from (Path(place) / name for name in files if _is_image(name))


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_image(name: str) -> bool:
    return _visible(name) and name.lower().endswith(ImageFolder.SUFFIXES)


def _to_batch(squares: list[decoding.Square]) -> Images:
    return to_images(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous())


def _some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = [f"and {len(names) - 5} more"] if len(names) > 5 else []
    return ", ".join([*names[:5], *more])


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__


def _short_hash(*parts: bytes | bytearray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
