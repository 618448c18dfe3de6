"""Any folder of images, ImageNet's among them: its files are listed once, and for large folders remembered.

A folder of a million files takes minutes to list over a network. From `REMEMBERED` files on, names and sizes are kept
in the user's cache and hold as long as no folder within has changed; files that were rewritten in place, which a folder
does not show, are noticed by a sample of sizes.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from robustok.data.classes import Classes, by_folder, ordered, unlabeled
from robustok.data.file_names import PACKED, PLAIN, SUFFIXES, is_hidden, tell_unread
from robustok.data.image_files import BrokenFileError, Files
from robustok.data.label_files import told_by
from robustok.data.user_cache import cached_file, keep
from robustok.runtime.checkpoint import parse_json, short_hash
from robustok.runtime.places import home
from robustok.runtime.words import reason, some

REMEMBERED = 20_000  # files from which on a listing is kept
SAMPLE = 256  # files whose size is compared before a kept listing is believed
SETTLED = 2_000_000_000  # ns after its last change from which on a folder's time tells the next change
PIECES, PIECE = 16, 1024  # of a file without compression, that are looked at, and bytes of each
GOLDEN = (5**0.5 - 1) / 2  # whose multiples, without their whole part, lie evenly and never in step with rows
THREADS = 16  # that list folders at once: on a network, listing is mostly waiting


class FolderFiles(Files):
    """The image files of a folder, in the order of classes, then names.

    Classes are sub-folders, by their names, whole numbers in the order of numbers. Images in one place make one class,
    "images", unless all are named as ImageNet's training images are, n01440764_18.JPEG. `labels` is a file that tells
    the classes of a folder without sub-folders, see `label_files`, or "none": then images have no classes, so that
    empty folders do no harm. Raises ValueError where images or classes are missing.
    """

    errors = "skip"

    def __init__(self, path: str | Path, labels: str | Path | None = None):
        self.path, self.place = home(path), str(path)
        self.listing = listing_of(self.path)
        tell_unread(self.listing.others, self.place)
        self.classes, self.labels = self._told(labels)

    def read(self, index: int) -> bytes:
        try:
            return (self.path / self.name(index)).read_bytes()
        except OSError as error:  # a link to nowhere, a bad sector
            raise BrokenFileError(self.name(index), self.place, reason(error)) from error

    def name(self, index: int) -> str:
        return self.listing.names[index]

    def listed(self) -> tuple[str, str]:
        name = Path(os.path.abspath(self.path)).name  # that the user sees, be it that of a link
        entries = zip(self.listing.names, self.listing.sizes, strict=True)
        return name, "\n".join(f"{file} {size}{self._looked_at.get(file, '')}" for file, size in entries)

    @cached_property
    def _looked_at(self) -> dict[str, str]:
        """What some bytes of files without compression are: those of one side are all of one size."""
        plain = [name for name in self.listing.names if name.lower().endswith(PLAIN)]
        with ThreadPoolExecutor(THREADS) as threads:
            return dict(zip(plain, threads.map(lambda name: _some_bytes(self.path / name), plain), strict=True))

    def _told(self, labels: str | Path | None) -> Classes:
        names = self.listing.names
        told = by_folder(names, self.listing.empty, self.place, archive=False, complete=labels is None)
        if labels is None:
            return told
        if labels == "none":
            return unlabeled(len(names))
        if "/" in names[0]:
            raise ValueError(f"the classes of {self.path} are its sub-folders {some(told[0])}; leave {labels} out")
        return told_by(home(labels), names, self.place)


def _some_bytes(path: Path) -> str:
    """A blank and the hash of pieces of a file, spread over it so that they fall into any column of its picture.

    Nothing for a file that cannot be read, which reading it tells.
    """
    pieces = []
    try:
        with path.open("rb") as file:
            last = os.fstat(file.fileno()).st_size - PIECE
            for piece in range(PIECES if last > 0 else 1):
                file.seek(int(last * (piece * GOLDEN % 1)) if last > 0 else 0)
                pieces.append(file.read(PIECE))
    except OSError:
        return ""
    return f" {short_hash(*pieces)}"


class Listing(NamedTuple):
    """The image files of a folder: paths within it, in the order of class folders, then names."""

    names: list[str]
    sizes: list[int]  # bytes
    folders: dict[str, int]  # all folders within and when they changed, in ns
    empty: list[str]  # class folders without images
    others: list[str]  # suffixes of what else there is


class Walked(NamedTuple):
    """One folder within the root, `""` the root itself."""

    folder: str
    changed: int  # ns
    files: list[tuple[str, int]]  # its images with their sizes
    folders: list[str]
    others: set[str]


def listing_of(path: Path) -> Listing:
    """The images in a folder and those within. Raises ValueError where there are none."""
    if not path.is_dir():
        raise ValueError(f"{path} {_instead(path)}")
    kept = cached_file("listings", str(path.resolve()), ".json")
    remembered = _remembered(path, kept)
    if remembered is not None:
        return remembered
    began = time.time_ns()
    listing = _list(path)
    if len(listing.names) >= REMEMBERED and max(listing.folders.values()) < began - SETTLED:
        keep(kept, json.dumps(listing._asdict()).encode())
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
    with suppress(OSError, ValueError, TypeError), ThreadPoolExecutor(THREADS) as threads:
        listing = Listing(**parse_json(kept.read_bytes()))
        step = -(-len(listing.names) // SAMPLE)
        changed = threads.map(lambda folder: (path / folder).stat().st_mtime_ns, listing.folders)
        sizes = threads.map(lambda name: (path / name).stat().st_size, listing.names[::step])
        if list(changed) == list(listing.folders.values()) and list(sizes) == listing.sizes[::step]:
            return listing
    return None


def _list(path: Path) -> Listing:
    root = _scan(str(path), "")
    folders = ordered(name for name in root.folders if not root.files or (path / name).exists())
    above = (_identity(str(path)),)
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda folder: list(_walk(str(path), folder, above)), folders))
    walked = [root, *(one for walk in found for one in walk)]
    files = [file for walk in ([root], *found) for file in sorted(file for one in walk for file in one.files)]
    others = sorted(set().union(*(one.others for one in walked)))
    if not files:
        there = f"; found {', '.join(others)}" if others else ""
        packed = ", to be unpacked" if any(suffix in PACKED for suffix in others) else ""
        raise ValueError(
            f"no image found in {path}; wanted {', '.join(SUFFIXES)} files, "
            f"either directly in it or in one sub-folder per class{there}{packed}"
        )
    return Listing(
        [name for name, _ in files],
        [size for _, size in files],
        {one.folder: one.changed for one in walked},
        [walk[0].folder for walk in found if not any(one.files for one in walk)],
        others,
    )


def _walk(root: str, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Walked]:
    """A folder and those within.

    Raises ValueError for a link to nowhere, or to a folder `above`, which would have no end.
    """
    path = os.path.join(root, folder)
    if not os.path.exists(path):
        raise ValueError(f"{path} is a link to nowhere; mend the link, or remove it")
    own = _identity(path)
    if own in above:
        raise ValueError(f"{path} is a link to a folder that it lies in; remove the link")
    found = _scan(root, folder)
    yield found
    for name in found.folders:
        yield from _walk(root, f"{folder}/{name}", (*above, own))


def _identity(folder: str) -> tuple[int, int]:
    """Device and inode, the same for two paths of one folder."""
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _scan(root: str, folder: str) -> Walked:
    """Look into one folder."""
    path = os.path.join(root, folder)
    found = Walked(folder, os.stat(path).st_mtime_ns, [], [], set())
    with os.scandir(path) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            broken = entry.is_symlink() and not os.path.exists(entry.path)
            if not suffix if broken else entry.is_dir():  # a link to nowhere was one to a folder, by its name
                found.folders.append(entry.name)
            elif suffix in SUFFIXES and (broken or entry.is_file()):
                name = f"{folder}/{entry.name}" if folder else entry.name
                found.files.append((name, 0 if broken else entry.stat().st_size))  # reading it tells
            else:
                found.others.add(suffix or entry.name)
    found.folders.sort()
    return found
