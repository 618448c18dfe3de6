"""Any folder of images as an image set, ImageNet's among them."""

import os
from pathlib import Path
from typing import Any

import torch

from robustok.data.classes import Classes, by_synset, unlabeled
from robustok.data.images import short_hash
from robustok.data.label_files import told_by
from robustok.data.listing import listing_of
from robustok.data.order import Windows
from robustok.data.pictures import BrokenFileError, Errors, Pictures, check_classes, some, tell_unread


class FolderFiles:
    """The image files of a folder, in the order of classes, then names.

    Classes are sub-folders, by their names, whole numbers in the order of numbers. Images in one place make one class,
    "images", unless all are named as ImageNet's training images are, n01440764_18.JPEG. `labels` is a file that tells
    the classes of a folder without sub-folders, see `label_files`, or "none": then images have no classes, so that
    empty folders do no harm. Raises ValueError where images or classes are missing.
    """

    windows: Windows | None = None

    def __init__(self, path: str | Path, labels: str | Path | None = None):
        self.path, self.place = Path(path), str(path)
        self.listing = listing_of(self.path)
        tell_unread(self.listing.others, self.place)
        self.classes, self.labels = self._told(labels)

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
        return {
            "name": Path(os.path.abspath(self.path)).name,  # the name that the user sees, be it that of a link
            "count": len(self),
            "hash": short_hash(os.fsencode(listing)),
        }

    def _told(self, labels: str | Path | None) -> Classes:
        listing = self.listing
        if labels == "none":
            return unlabeled(len(self))
        if labels is not None:
            if listing.classes != ("",):
                raise ValueError(
                    f"the classes of {self.path} are its sub-folders {some(listing.classes)}; leave {labels} out"
                )
            return told_by(Path(labels), listing.names, self.place)
        if listing.classes == ("",):
            return by_synset(listing.names) or unlabeled(len(self))
        told = torch.arange(len(listing.counts)).repeat_interleave(torch.tensor(listing.counts))
        check_classes(torch.arange(len(listing.classes)), told, listing.classes, self.place)
        return listing.classes, told


class ImageFolder(Pictures):
    """The images of a folder: one sub-folder per class, or all in one place, which makes one class.

    Files are PNG, JPEG, WebP, TIFF and others (`pictures.SUFFIXES`), in the order of their names. `labels` as
    for `FolderFiles`, everything else as for `Pictures`.
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
