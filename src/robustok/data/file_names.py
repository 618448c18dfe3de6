"""Names of files: which are images, which are hidden, and several by one pattern as a shell would write it."""

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from glob import glob
from pathlib import Path

from robustok.runtime.words import some

# fmt: off
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".pjpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".apng",
    ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)
PLAIN = (".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")  # mostly: a byte count tells no contents
UNREAD = {".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".dds", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
PACKED = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz", ".7z", ".rar")
# fmt: on
JUNK = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}  # of systems, not of users


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is none of the user's: .DS_Store, ._a.png, .ipynb_checkpoints, __MACOSX."""
    return name.startswith(".") or name in JUNK


def archives_in(folder: Path, suffix: str) -> list[Path]:
    """Files of a suffix in a folder, else in `data` below it as in the hub's repositories, in the order of names."""
    for place in (folder, folder / "data"):
        with os.scandir(place) if place.is_dir() else nullcontext(()) as entries:
            found = [entry for entry in entries if entry.name.lower().endswith(suffix) and not is_hidden(entry.name)]
            paths = sorted(place / entry.name for entry in found if entry.is_file())
        if paths:
            return paths
    return []


def tell_unread(others: Sequence[str], place: str) -> None:
    """Warn where `others`, suffixes of what lies beside the images of a place, are those of images too."""
    unread = sorted(UNREAD & set(others))
    if unread:
        warnings.warn(
            f"{place} also holds images of kinds that are not read, {some(unread)}; convert them to PNG or JPEG",
            stacklevel=4,
        )


def matches(pattern: str) -> list[str]:
    """The paths of a pattern, each choice of its braces in turn and sorted within; none where there is nothing.

    Folders that are there by their very name may hold brackets and braces. Raises ValueError where braces name a file
    that is not there beside some that are.
    """
    path, rest = Path(pattern), ""
    while not path.exists() and path != path.parent:  # down to the longest part that is there by its very name
        path, rest = path.parent, f"{path.name}/{rest}"
    if not rest:
        return [str(path)]
    choices = expanded(rest.rstrip("/"))
    found = [[str(path / name) for name in sorted(glob(choice, root_dir=path, recursive=True))] for choice in choices]
    gone = [choice for choice, names in zip(choices, found, strict=True) if not names]
    names = [name for part in found for name in part]
    if names and gone:
        more = f", nor {len(gone) - 1} others" if len(gone) > 1 else ""
        raise ValueError(f"there is no {path / gone[0]}{more} of {pattern}; fetch what is missing, or leave it out")
    return names


def expanded(pattern: str) -> list[str]:
    """A pattern with its braces spelled out, as a shell does: `a{00..02}`, `{train,val}`."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        return [pattern]
    choices, (start, end) = braces[1].split(","), braces.span()
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [name for choice in choices for name in expanded(pattern[:start] + choice + pattern[end:])]
