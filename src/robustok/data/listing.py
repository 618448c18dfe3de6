"""Which image files a folder holds, and of which class: found once, and for large folders remembered.

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

from robustok.data.cached import cached_file, keep
from robustok.data.pictures import SUFFIXES, some

REMEMBERED = 20_000  # files from which on a listing is kept
SAMPLE = 256  # files whose size is compared before a kept listing is believed
SETTLED = 2_000_000_000  # ns after its last change from which on a folder's time tells the next change
THREADS = 16  # that list folders at once: on a network, listing is mostly waiting
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Listing:
    """The image files of a folder: paths within it, in the order of classes, then names."""

    classes: tuple[str, ...]  # folders, "" is the folder itself
    counts: tuple[int, ...]  # files of each class
    names: list[str]
    sizes: list[int]  # bytes
    folders: dict[str, int]  # all folders within and when they changed, in ns


def listing_of(path: Path) -> Listing:
    """The images in a folder, one sub-folder per class, or all in it. Raises ValueError where it is neither."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; wanted a folder of images, or one with a sub-folder per class")
    kept = cached_file("listings", str(path.resolve()), ".json")
    remembered = _remembered(path, kept)
    if remembered is not None:
        return remembered
    began = time.time_ns()
    listing = _list(path)
    if len(listing.names) >= REMEMBERED and max(listing.folders.values()) < began - SETTLED:
        keep(kept, json.dumps(asdict(listing)).encode())
    return listing


def _remembered(path: Path, kept: Path) -> Listing | None:
    """What was listed before, if it still holds."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(kept.read_bytes())
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
    own, folders = _entries(str(path))
    loose = [name for name, _ in own]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda folder: list(_walk(str(path), folder)), folders))
    files = [[entry for _, _, entries in walk for entry in entries] for walk in found]
    filled = [folder for folder, entries in zip(folders, files, strict=True) if entries]
    _check(path, loose, folders, filled)
    if loose:
        folders, files = [""], [sorted(own)]
    changed = {"": path.stat().st_mtime_ns} | {name: time for walk in found for name, time, _ in walk}
    names = [name for entries in files for name, _ in sorted(entries)]
    sizes = [size for entries in files for _, size in sorted(entries)]
    return Listing(tuple(folders), tuple(map(len, files)), names, sizes, changed)


def _check(path: Path, loose: Sequence[str], folders: Sequence[str], filled: Sequence[str]) -> None:
    """Raises ValueError where a folder is neither one of images nor one of classes."""
    if loose and filled:
        raise ValueError(
            f"{path} has {len(loose)} images beside the class folders {some(filled)}; "
            f"move them into a class folder, or all images into one folder"
        )
    if not loose and not filled:
        raise ValueError(
            f"no image found in {path}; wanted {', '.join(SUFFIXES)} files, "
            f"either directly in it or in one sub-folder per class"
        )
    if not loose and {name.lower() for name in folders} <= SPLITS:
        raise ValueError(f"{path} holds the splits {some(folders)}, not classes; give one of them: {path / folders[0]}")


def _walk(root: str, folder: str) -> Iterator[tuple[str, int, list[tuple[str, int]]]]:
    """A folder and those within: path within the root, time of its last change, and its images with their sizes."""
    files, folders = _entries(os.path.join(root, folder))
    changed = os.stat(os.path.join(root, folder)).st_mtime_ns
    yield folder, changed, [(f"{folder}/{name}", size) for name, size in files]
    for name in folders:
        yield from _walk(root, f"{folder}/{name}")


def _entries(folder: str) -> tuple[list[tuple[str, int]], list[str]]:
    """The images of a folder with their sizes, and its folders, by name."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                files.append((entry.name, _size(entry)))
    return sorted(files), sorted(folders)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reading it tells
        return 0
