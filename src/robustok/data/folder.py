"""Any folder of images as an image set."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from robustok.data import decoding
from robustok.data.images import Draws, Indices, Subset, short_hash
from robustok.shapes import Images, to_images

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


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

    def training_images(self, indices: Indices, draws: Draws) -> Images:

        def view(index_and_draw: tuple[int, list[float]]) -> decoding.Square:
            index, (*crop, mirror) = index_and_draw
            square = decoding.random_crop(self._read(index), self.size, crop)
            return square[:, ::-1] if self.flip and mirror < 0.5 else square

        return _to_batch(self._map(view, list(zip(indices.tolist(), draws.tolist(), strict=True))))

    def describe(self) -> dict[str, Any]:
        """What scores and caches record. The hash is of names and byte counts, for contents take hours."""
        listing = "\n".join(f"{self._name(file)} {file.stat().st_size}" for file in self.files)
        return {
            "name": self.path.resolve().name,
            "view": f"ADM center crop to {self.size}",
            "count": len(self),
            "hash": short_hash(listing.encode()),
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
            f"no image found in {path}; wanted {', '.join(SUFFIXES)} files, "
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
    return _visible(name) and name.lower().endswith(SUFFIXES)


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
