"""Where robustok keeps what it fetched or found out about data: a folder of the user's, safe for several processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from robustok.runtime.checkpoint import write_bytes


def data_folder() -> Path:
    """ROBUSTOK_DATA, else ~/.cache/robustok/data."""
    return Path(os.environ.get("ROBUSTOK_DATA") or Path.home() / ".cache" / "robustok" / "data")


def cached_file(kind: str, of: str, suffix: str) -> Path:
    """Where something of a `kind` is kept that was found out about the path or address `of`."""
    return data_folder() / kind / f"{sha256(os.fsencode(of)).hexdigest()[:24]}{suffix}"


def keep(path: Path, data: bytes) -> None:
    """Write the file if the folder can be written to: it only saves time."""
    try:
        with alone(path):
            write_bytes(path, data)
    except OSError:
        return


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While the block runs, no other process or thread is in one for this path; a killed process leaves no lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # has no such locks; what is written is the same, whoever is last
        yield
        return
    import fcntl

    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
