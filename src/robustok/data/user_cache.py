"""A folder of the user's for what was fetched or found out about data, safe for several processes."""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from robustok.runtime.checkpoint import write_bytes
from robustok.runtime.locking import claim
from robustok.runtime.places import home, user_cache


def data_folder() -> Path:
    """ROBUSTOK_DATA, else ~/.cache/robustok/data."""
    return home(os.environ.get("ROBUSTOK_DATA") or user_cache() / "data")


def cached_file(kind: str, of: str, suffix: str) -> Path:
    """The file of something of a `kind` that was found out about the path or address `of`."""
    return data_folder() / kind / f"{sha256(os.fsencode(of)).hexdigest()[:24]}{suffix}"


def keep(path: Path, data: bytes) -> None:
    """Write the file if the folder can be written to: it only saves time."""
    with suppress(OSError), claim(path, wait=True):
        write_bytes(path, data)
