"""Any folder of images, ImageNet's among them: its files are listed once, and for large folders remembered.

A folder of a million files takes minutes to list over a network. From `REMEMBERED` files on, names and sizes are kept
in the user's cache and hold as long as no folder within has changed; files that were rewritten in place, which a folder
does not show, are noticed by a sample of sizes.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from robustok.data.classes import SPLITS, Classes, by_name, by_synset, check_classes, ordered, unlabeled
from robustok.data.file_names import PACKED, SUFFIXES, is_hidden, some, tell_unread
from robustok.data.image_files import BrokenFileError
from robustok.data.images import short_hash
from robustok.data.label_files import told_by
from robustok.data.order import Windows
from robustok.data.user_cache import cached_file, keep
from robustok.runtime.checkpoint import parse_json

REMEMBERED = 20_000  # files from which on a listing is kept
SAMPLE = 256  # files whose size is compared before a kept listing is believed
SETTLED = 2_000_000_000  # ns after its last change from which on a folder's time tells the next change
THREADS = 16  # that list folders at once: on a network, listing is mostly waiting
# A folder within the root, when it changed last, its images with their sizes, and suffixes of what else it holds.
Walked: TypeAlias = tuple[str, int, list[tuple[str, int]], list[str]]


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
        classes, of_folder = by_name(listing.classes)
        told = of_folder.repeat_interleave(torch.tensor(listing.counts))
        check_classes(torch.arange(len(classes)), told, classes, self.place)
        return classes, told


@dataclass(frozen=True)
class Listing:
    """The image files of a folder: paths within it, in the order of classes, then names."""

    classes: tuple[str, ...]  # folders, "" is the folder itself
    counts: tuple[int, ...]  # files of each class
    names: list[str]
    sizes: list[int]  # bytes
    folders: dict[str, int]  # all folders within and when they changed, in ns
    others: list[str]  # suffixes of what else there is


def listing_of(path: Path) -> Listing:
    """The images in a folder, one sub-folder per class, or all in it. Raises ValueError where it is neither."""
    if not path.is_dir():
        raise ValueError(f"{path} {_instead(path)}")
    kept = cached_file("listings", str(path.resolve()), ".json")
    remembered = _remembered(path, kept)
    if remembered is not None:
        return remembered
    began = time.time_ns()
    listing = _list(path)
    if len(listing.names) >= REMEMBERED and max(listing.folders.values()) < began - SETTLED:
        keep(kept, json.dumps(asdict(listing)).encode())
    return listing


def _instead(path: Path) -> str:
    """Words for a path that is no folder, and what to do."""
    name = path.name.lower()
    if name.endswith(PACKED):
        return "is a packed archive, in which images have no places to read from; unpack it and give the folder"
    if name.endswith(".npz"):
        return "is a file of samples, which are only scored; save its images as files and give their folder"
    if name.endswith(SUFFIXES) and path.is_file():
        return "is one image; give the folder that it lies in"
    what = "is a file, not a folder" if path.is_file() else "is not a folder"
    return f"{what}; wanted a folder of images, or one with a sub-folder per class"


def _remembered(path: Path, kept: Path) -> Listing | None:
    """The listing that was kept, if it still holds."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = parse_json(kept.read_bytes())
        listing = Listing(tuple(known.pop("classes")), tuple(known.pop("counts")), **known)
        step = -(-len(listing.names) // SAMPLE)
        sample = zip(listing.names[::step], listing.sizes[::step], strict=True)
        with ThreadPoolExecutor(THREADS) as threads:
            changed = threads.map(lambda folder: (path / folder).stat().st_mtime_ns, listing.folders)
            sizes = threads.map(lambda entry: (path / entry[0]).stat().st_size == entry[1], sample)
            if list(changed) == list(listing.folders.values()) and all(sizes):
                return listing
    return None


def _list(path: Path) -> Listing:
    own, folders, others = _entries(str(path))
    folders = ordered(name for name in folders if not own or (path / name).exists())
    loose = [name for name, _ in own]
    above = (_identity(str(path)),)
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda folder: list(_walk(str(path), folder, above)), folders))
    files = [[entry for _, _, entries, _ in walk for entry in entries] for walk in found]
    others = sorted({suffix for walk in found for *_, more in walk for suffix in more} | set(others))
    filled = [folder for folder, entries in zip(folders, files, strict=True) if entries]
    _check(path, loose, folders, filled, others)
    if loose:
        folders, files = [""], [sorted(own)]
    changed = {"": path.stat().st_mtime_ns} | {name: time for walk in found for name, time, *_ in walk}
    names = [name for entries in files for name, _ in sorted(entries)]
    sizes = [size for entries in files for _, size in sorted(entries)]
    return Listing(tuple(folders), tuple(map(len, files)), names, sizes, changed, others)


def _check(
    path: Path, loose: Sequence[str], folders: Sequence[str], filled: Sequence[str], others: Sequence[str]
) -> None:
    """Raises ValueError where a folder is neither one of images nor one of classes."""
    if loose and filled:
        raise ValueError(
            f"{path} has {len(loose)} images beside the class folders {some(filled)}; "
            f"move them into a class folder, or all images into one folder"
        )
    if not loose and not filled:
        there = f"; found {', '.join(others)}" if others else ""
        packed = ", to be unpacked" if any(suffix in PACKED for suffix in others) else ""
        raise ValueError(
            f"no image found in {path}; wanted {', '.join(SUFFIXES)} files, "
            f"either directly in it or in one sub-folder per class{there}{packed}"
        )
    if not loose and {name.lower() for name in folders} <= SPLITS:
        raise ValueError(f"{path} holds the splits {some(folders)}, not classes; give one of them: {path / folders[0]}")


def _walk(root: str, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Walked]:
    """A folder and those within, as `Walked`.

    Raises ValueError for a link to nowhere, or to a folder `above`, which would have no end.
    """
    path = os.path.join(root, folder)
    if not os.path.exists(path):
        raise ValueError(f"{path} is a link to nowhere; mend the link, or remove it")
    own = _identity(path)
    if own in above:
        raise ValueError(f"{path} is a link to a folder that it lies in; remove the link")
    files, folders, others = _entries(path)
    changed = os.stat(path).st_mtime_ns
    yield folder, changed, [(f"{folder}/{name}", size) for name, size in files], others
    for name in folders:
        yield from _walk(root, f"{folder}/{name}", (*above, own))


def _identity(folder: str) -> tuple[int, int]:
    """Device and inode, the same for two paths of one folder."""
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _entries(folder: str) -> tuple[list[tuple[str, int]], list[str], list[str]]:
    """The images of a folder with their sizes, its folders, by name, and suffixes of what else there is."""
    files, folders, others = [], [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            broken = entry.is_symlink() and not os.path.exists(entry.path)
            if entry.is_dir() or (broken and not suffix):  # a link to nowhere was one to a folder, by its name
                folders.append(entry.name)
            elif suffix in SUFFIXES and (broken or entry.is_file()):
                files.append((entry.name, _size(entry)))
            else:
                others.add(suffix or entry.name)
    return sorted(files), sorted(folders), sorted(others)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reading it tells
        return 0
