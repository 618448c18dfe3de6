"""Places that something is to be written to, looked at before the work whose result goes there."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from robustok.runtime.words import reason

BLOCK = 4096  # bytes that are written on trial, for a full disk still takes empty files
PARTIAL = ".partial"  # what `checkpoint.replacing` adds to a name for the while
CLAIM = ".claim"  # what `locking.claim` adds to it


def home(path: str | os.PathLike[str]) -> Path:
    """The path, `~` at its beginning being the user's folder, as a shell has it."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises where nobody is known


def user_cache() -> Path:
    """~/.cache/robustok; where nobody has a home, as in some containers, a folder of the system's."""
    found = home("~/.cache/robustok")
    return found if found.is_absolute() else Path(tempfile.gettempdir(), "robustok-cache")


def check_writable(path: str | Path, kind: Literal["file", "folder"]) -> None:
    """Check that a file can be written to `path`, or files into the folder `path`; nothing is left behind.

    Raises ValueError where something of the other kind is there or lies in between, and OSError where the system
    refuses: a full disk, a missing permission, a name that is too long.
    """
    path = Path(path)
    try:
        if "\0" in str(path):
            raise ValueError(f"{str(path)!r} is no name of a {kind}; leave the zero byte out")
        _check_kind(path, kind)
        there, missing = (path, []) if kind == "folder" else (path.parent, [path.name])
        while not there.exists():
            if there.is_symlink():
                raise ValueError(f"{there} is a link to nowhere, so nothing can be written there; remove or mend it")
            there, missing = there.parent, [there.name, *missing]
        if not there.is_dir():
            raise ValueError(f"{there} is a file, so nothing can be written below it; choose another place than {path}")
        for name in missing:
            with suppress(FileNotFoundError):
                (there / f"{name}{PARTIAL}{CLAIM}").lstat()  # an OSError where names of that length are not taken
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        told = f"cannot write to {path} ({reason(error)}); choose another place, or make room"
        raise OSError(error.errno, told) from error


def _check_kind(path: Path, kind: Literal["file", "folder"]) -> None:
    """Raises ValueError where something that is not a `kind` has the name."""
    if path.is_dir():
        if kind == "file":
            raise ValueError(f"{path} is a folder, and a file is to be written; give the name of a file in it")
    elif path.exists():
        if kind == "folder":
            raise ValueError(f"{path} is a file, and a folder is to be written to; choose another name")
        if not path.is_file():
            raise ValueError(f"{path} is a device or a pipe, and no file that could be replaced; give that of a file")
