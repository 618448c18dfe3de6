"""Shards behind an http(s) address, fetched whole into the user's cache.

Whole rather than by range: every image is read once an epoch, so ranges would fetch the same bytes again each epoch,
a request an image, and a server that stalls would stall training. A stopped download goes on where it was; a file is
whole or not there; several processes share one folder. `ROBUSTOK_DATA_LIMIT` (GB) bounds the folder: shards that were
not used for longest make room, which with `window` streams a set that is larger than the disk; one shard is fetched at
a time then, else several.
"""

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from errno import ENOSPC
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from robustok.data.user_cache import data_folder
from robustok.runtime.checkpoint import parse_json, write_json
from robustok.runtime.locking import claim
from robustok.runtime.words import reason

CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without a byte
PAUSE = 0.5  # seconds before trying again, doubled each time
TRIES = 6  # of one shard, in a row, without a byte
PART = 206  # what a server answers that sends the part that was asked for
ASKED_AT_ONCE = 16  # servers asked for sizes
MARKED_EVERY = 60  # seconds between notes that a shard is in use
LIMIT = "ROBUSTOK_DATA_LIMIT"  # environment variable: GB that fetched shards may take
SPARE = 0.02  # fraction of the disk that stays free


def is_address(name: str) -> bool:
    """Tell whether a name is an address rather than a path."""
    return name.startswith(("http://", "https://"))


class Remote(NamedTuple):
    """A file as its server tells it."""

    size: int  # bytes
    tag: str  # changes with the contents: the ETag, else the time of the last change


class Downloads:
    """Files by address, on this disk when they are asked for.

    Room must be there for all of them, or with `window` for twice as many of them as that. Raises ValueError otherwise,
    and for an address that does not answer unless its file is here already.
    """

    def __init__(self, addresses: Sequence[str], *, window: int | None = None):
        self.folder = data_folder() / "shards"
        self._used = dict[Path, float]()  # when each was marked as used
        with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
            self.remote = dict(zip(addresses, threads.map(self._ask, addresses), strict=True))
        if addresses:
            self._check_room(window)

    def path(self, address: str) -> Path:
        """The file of an address, fetched if it is not here. Raises ValueError if it cannot be had."""
        path, remote = self._place(address), self.remote[address]
        if not (path.is_file() and _state(path) == remote):
            limited = _limit() < float("inf")
            with claim(path, wait=True), claim(self.folder / "room", wait=True) if limited else nullcontext():
                if not (path.is_file() and _state(path) == remote):  # another process may have fetched it meanwhile
                    if limited:
                        self._make_room(remote.size, path)
                    _fetch(address, remote, path)
        now = time.time()
        if now - self._used.get(path, 0) > MARKED_EVERY:
            self._used[path] = now
            os.utime(path)
        return path

    def _place(self, address: str) -> Path:
        parts = urlsplit(address)
        server = sha256(f"{parts.netloc}{parts.path.rpartition('/')[0]}?{parts.query}".encode()).hexdigest()[:12]
        return self.folder / server / (parts.path.rpartition("/")[2] or "shard.tar")

    def _ask(self, address: str) -> Remote:
        """Ask the server for a file's size and tag; where it does not answer, recall those that the file came with."""
        path = self._place(address)
        try:
            return _told(address)
        except (OSError, HTTPException, ValueError) as error:
            known = _state(path)
            if known is not None and path.is_file():
                return known
            raise ValueError(
                f"{address} cannot be fetched ({reason(error)}); look at the address and the network"
            ) from error

    def _check_room(self, window: int | None) -> None:
        sizes = sorted(remote.size for remote in self.remote.values())
        needed = sum(sizes if window is None else sizes[-2 * window :])
        self.folder.mkdir(parents=True, exist_ok=True)
        here = sum(size for _, size, _ in self._here())
        room = min(_limit(), shutil.disk_usage(self.folder).free * (1 - SPARE) + here)
        if needed > room:
            less = "" if window == 1 else f", give a {'window' if window is None else 'smaller window'} of shards"
            raise ValueError(
                f"{len(sizes)} shards need {needed / 1e9:.3g} GB in {self.folder}, where they may take "
                f"{room / 1e9:.3g} GB; make room, set ROBUSTOK_DATA to another folder or {LIMIT} to more GB{less}"
            )

    def _make_room(self, size: int, own: Path) -> None:
        """Remove the shards that were used longest ago until one more fits."""
        shards = [file for file in self._here() if file[2].suffix not in (".json", ".lock", ".claim")]
        shards = [file for file in shards if not file[2].name.startswith(own.name)]
        taken = sum(size for _, size, _ in shards)
        for _, bytes_there, path in shards:
            if taken + size <= _limit():
                return
            path.unlink(missing_ok=True)
            taken -= bytes_there

    def _here(self) -> list[tuple[float, int, Path]]:
        """Time of last use, bytes and path of each file that lies here."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process renames and removes some
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        return sorted(found)


def _limit() -> float:
    """Bytes that shards may take here."""
    text = os.environ.get(LIMIT, "inf")
    with suppress(ValueError):
        if float(text) > 0:
            return float(text) * 1e9
    raise ValueError(f"{LIMIT} is {text!r}; give a number of GB above 0")


def _state(path: Path) -> Remote | None:
    """Size and tag of a file when it was fetched."""
    try:
        return Remote(*parse_json(path.with_name(path.name + ".json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _told(address: str) -> Remote:
    """Size and tag of a file, from the answer for its first byte, or for all of it where that leaves the size out."""
    for headers in ({"Range": "bytes=0-0"}, {}):
        with urlopen(Request(address, headers=headers), timeout=TIMEOUT) as answer:
            told = answer.headers
            size = (told["Content-Range"] or "").rpartition("/")[2] if answer.status == PART else told["Content-Length"]
            if size is not None and size.isdecimal():
                return Remote(int(size), told["ETag"] or told["Last-Modified"] or "")
    raise OSError("its server does not tell its size")


def _fetch(address: str, remote: Remote, path: Path) -> None:
    """Bring a file here, going on where an earlier try ended; it has its name when it is whole."""
    partial = path.with_name(path.name + ".partial")
    if _state(path) != remote:
        partial.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        write_json(path.with_name(path.name + ".json"), list(remote))
    idle = 0
    while (have := _size(partial)) != remote.size:
        if have > remote.size:
            partial.unlink()
            continue
        try:
            _append(address, partial, max(have, 0))
            error: Exception = OSError(f"{_size(partial)} of {remote.size} bytes came")
        except (OSError, HTTPException) as caught:
            error = caught
        there = _size(partial)
        if there > remote.size:
            partial.unlink()
            raise ValueError(
                f"{address} sent {there} bytes or more where {remote.size} were announced; it may have changed "
                "meanwhile, so start again"
            )
        idle = 0 if there > have else idle + 1
        final = (isinstance(error, HTTPError) and error.code < 500) or getattr(error, "errno", None) == ENOSPC
        if there != remote.size and (idle == TRIES or final):
            raise ValueError(
                f"{address} cannot be fetched to {path.parent} ({reason(error)}); what came is kept, so start again "
                "to go on"
            ) from error
        if idle:
            time.sleep(PAUSE * 2**idle)
    os.replace(partial, path)


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.exists() else -1


def _append(address: str, partial: Path, have: int) -> None:
    """Append the bytes after the first `have`; write all of them anew, if the server gives no parts."""
    request = Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT) as source, partial.open("ab" if source.status == PART else "wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
