"""Any folder of images as an image set, ImageNet's among them."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.data.images import short_hash
from robustok.data.listing import Listing, listing_of
from robustok.data.order import Windows
from robustok.data.pictures import BrokenFileError, Errors, Pictures, check_classes, some


class FolderFiles:
    """The image files of a folder, in the order of classes, then names.

    `labels` is a file that tells the classes of a folder without sub-folders, as ImageNet's validation images are kept:
    a CSV file of image and class (`LOC_val_solution.csv`), a text file of lines "image class", or one of as many lines
    as there are images with a class each, in the order of names (`imagenet_2012_validation_synset_labels.txt`).
    """

    windows: Windows | None = None

    def __init__(self, path: str | Path, labels: str | Path | None = None):
        self.path, self.place = Path(path), str(path)
        self.listing = listing = listing_of(self.path)
        self.classes: tuple[str, ...]
        if labels == "none":
            self.classes, self.labels = ("images",), torch.zeros(len(listing.names), dtype=torch.int64)
        elif labels is None:
            folders = (self.path / name for name in listing.classes)
            self.classes = tuple(folder.resolve().name for folder in folders)
            self.labels = torch.arange(len(listing.counts)).repeat_interleave(torch.tensor(listing.counts))
        else:
            self.classes, self.labels = _told(Path(labels), listing, self.path)
        check_classes(torch.arange(len(self.classes)), self.labels, self.classes, self.place)

    def __len__(self) -> int:
        return len(self.listing.names)

    def read(self, index: int) -> bytes:
        try:
            return self.file(index).read_bytes()
        except OSError as error:  # a link to nowhere, a bad sector
            raise BrokenFileError(f"{self.name(index)} in {self.place}", error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        return self.listing.names[index]

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self.path / self.listing.names[index]

    def describe(self) -> dict[str, Any]:
        entries = zip(self.listing.names, self.listing.sizes, strict=True)
        listing = "\n".join(f"{name} {size}" for name, size in entries)
        return {"name": self.path.resolve().name, "count": len(self), "hash": short_hash(listing.encode())}


class ImageFolder(Pictures):
    """The images of a folder: one sub-folder per class, or all in one place, which makes one class.

    Files are PNG, JPEG, WebP, BMP, GIF or TIFF, known by their suffix, in the order of their names. `labels` as for
    `FolderFiles`, everything else as for `Pictures`.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        labels: str | Path | None = None,
        errors: Errors = "skip",
        upscale: bool = False,
        flip: bool = True,
        draft: bool = False,
        workers: int | None = None,
    ):
        files = FolderFiles(path, labels)
        super().__init__(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)


def _told(file: Path, listing: Listing, path: Path) -> tuple[tuple[str, ...], Tensor]:
    """Classes and labels as a file tells them. Raises ValueError where it does not, or where folders do."""
    if listing.classes != ("",):
        raise ValueError(f"the classes of {path} are its sub-folders {some(listing.classes)}; leave {file} out")
    if not file.is_file():
        raise ValueError(f"there is no file {file}; give the file that tells the class of each image in {path}")
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            rows = [[row[0], row[1].split()[0]] for row in csv.reader(lines) if len(row) > 1 and row[1].split()]
    else:
        rows = [line.split()[:2] for line in file.read_text().splitlines() if line.strip()]
    stems = [Path(name).stem for name in listing.names]
    if rows and len(rows[0]) == 1:
        if len(rows) != len(stems):
            raise ValueError(
                f"{file} has {len(rows)} lines of a class each, but there are {len(stems)} images in {path}"
            )
        told = {stem: row[0] for stem, row in zip(stems, rows, strict=True)}
    else:
        told = {Path(row[0]).stem: row[1] for row in rows if len(row) > 1}
    missing = [name for name, stem in zip(listing.names, stems, strict=True) if stem not in told]
    if missing:
        raise ValueError(f"{file} tells no class of {len(missing)} of {len(stems)} images in {path}: {some(missing)}")
    return classes_of([told[stem] for stem in stems])


def classes_of(told: list[Any]) -> tuple[tuple[str, ...], Tensor]:
    """Names of classes, and labels, of what was told of each image: whole numbers as they are, else sorted names."""
    if all(str(name).isdecimal() for name in told):
        labels = torch.tensor([int(name) for name in told], dtype=torch.int64)
        return tuple(map(str, range(int(labels.max()) + 1))), labels
    classes = tuple(sorted({str(name) for name in told}))
    number = {name: label for label, name in enumerate(classes)}
    return classes, torch.tensor([number[str(name)] for name in told], dtype=torch.int64)
