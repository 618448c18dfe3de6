"""Folders of tensors that are made shard by shard: whatever stops it, the next try goes on where it was.

A folder holds `manifest.json`, which says what the tensors are and were made from, and shards of consecutive rows.
The manifest is written first, so that it marks the folder; every shard is written whole or not at all. Any number of
processes may work on a folder at once, started together or one by one, on one machine or on several that share it: each
takes a shard that nobody is making, and what a killed process left undone another one makes.

Shards are read where they lie, mapped into memory, so that a folder may be larger than it.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from robustok.data.images import Indices
from robustok.runtime.checkpoint import (
    HASH,
    is_whole,
    parse_json,
    read_json,
    save_tensors,
    stored_tensors,
    write_json,
)
from robustok.runtime.distributed import rank, world_size
from robustok.runtime.locking import claim

MANIFEST, VERIFIED = "manifest.json", "verified.json"
MOST = 10**6  # shards in a folder
LATER = ("classes",)  # what a manifest tells that those of earlier versions do not
WAIT = 0.2  # seconds between looks at what other processes are making
THREADS = 4  # that check hashes
MISSING = "is missing"


def write_shards(
    folder: Path,
    kind: str,
    manifest: Mapping[str, Any],
    count: int,
    make: Callable[[range], dict[str, Tensor]],
    *,
    shard_size: int,
    row_bytes: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill the folder with `count` rows of a `kind`; `make` is asked for those of each shard that is not there yet.

    Returns when all are there, whoever made them. `progress` is told how many rows are there. Raises ValueError if the
    folder holds what another manifest describes, or if the disk has no room for rows of `row_bytes` each.
    """
    wanted = json.loads(json.dumps({"kind": kind, **manifest, "count": count, "shard_size": shard_size}))
    _mark(folder, wanted)
    shards = _shards(folder, count, shard_size)
    damaged = _troubles(folder, list(shards))
    there = count - sum(len(shards[path]) for path in damaged)
    _check_room(folder, kind, row_bytes * (count - there))
    if progress is not None and there:
        progress(there)
    first = rank() * len(damaged) // world_size()  # ranks begin at different shards
    missing = [*list(damaged)[first:], *list(damaged)[:first]]
    while missing:
        others = []  # that other processes are making
        for path in missing:
            with claim(path) as mine:
                if not mine:
                    others.append(path)
                    continue
                if not path.exists() or (damaged[path] != MISSING and _trouble(path)):
                    tensors = make(shards[path])
                    assert all(len(tensor) == len(shards[path]) for tensor in tensors.values())
                    save_tensors(path, tensors)
            there += len(shards[path])
            if progress is not None:
                progress(there)
        if others == missing:
            time.sleep(WAIT)
        missing = others


class Shards:
    """A folder that `write_shards` filled: rows of named tensors, on the disk until they are asked for."""

    def __init__(self, folder: Path, kind: str):
        """Raises ValueError if a shard is missing or damaged."""
        self.manifest = _Manifest(folder / MANIFEST)
        if self.manifest.get("kind") != kind:
            raise ValueError(
                f"{folder} holds {self.manifest.get('kind', 'something else')}, not {kind}; give a folder of {kind}"
            )
        self.manifest.check_counts()
        self._size: int = self.manifest["shard_size"]
        paths = list(_shards(folder, self.manifest["count"], self._size))
        for path, trouble in _troubles(folder, paths).items():
            raise ValueError(f"{path} {trouble}; run again what made the folder, which makes only what is missing")
        # Mapped: pages are read when they are touched.
        self._shards = [{name: part.numpy() for name, part in stored_tensors(path)[0].items()} for path in paths]

    def __len__(self) -> int:
        count: int = self.manifest["count"]
        return count

    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._shards[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._shards[0][name].shape[1:])

    def column(self, name: str) -> Tensor:
        """All rows (count, ...), in memory."""
        return torch.from_numpy(np.concatenate([shard[name] for shard in self._shards]))

    def take(self, name: str, rows: Indices, within: Indices | None = None) -> Tensor:
        """Some rows (b, ...); with `within` (b), of each row the entry of that number."""
        shape = self.shape(name) if within is None else self.shape(name)[1:]
        taken = np.empty((len(rows), *shape), self._shards[0][name].dtype)
        shards, own = np.divmod(rows.numpy(), self._size)
        for shard in np.unique(shards):
            here = shards == shard
            at = own[here] if within is None else (own[here], within.numpy()[here])
            taken[here] = self._shards[shard][name][at]
        return torch.from_numpy(taken)


class _Manifest(dict[str, Any]):
    """The entries of a manifest; one that is not there, as where it was damaged, is a ValueError."""

    def __init__(self, path: Path):
        held = read_json(path)
        if not isinstance(held, dict):
            raise ValueError(f"{path} holds a {type(held).__name__} and is no manifest; make the folder anew")
        super().__init__(held)
        self.path = path

    def check_counts(self) -> None:
        """Raises ValueError for numbers that no folder has."""
        for name in ("count", "shard_size"):
            if type(self[name]) is not int or self[name] < 1:
                raise ValueError(f"{name} in {self.path} is {self[name]!r}, which is no count; make the folder anew")
        if self["count"] // self["shard_size"] > MOST:
            raise ValueError(f"{self.path} tells of {self['count']} rows, more than can be; make the folder anew")

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.path} does not say the {name}; it was damaged or edited, so make the folder anew")


def _mark(folder: Path, wanted: dict[str, Any]) -> None:
    """Write the manifest, or compare it with the one that is there. Raises ValueError where they differ."""
    while not (folder / MANIFEST).exists():
        with claim(folder / MANIFEST) as mine:
            if mine and not (folder / MANIFEST).exists():
                write_json(folder / MANIFEST, wanted)
    found = _Manifest(folder / MANIFEST)
    for name in wanted | found:
        if name in LATER and name not in found:
            continue
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} was made with {name} {found.get(name)}, not {wanted.get(name)}; "
                "choose another folder, or delete this one"
            )


def _check_room(folder: Path, kind: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{needed / 1e9:.3g} GB of {kind} are to be written to {folder}, where {free / 1e9:.3g} GB are free; "
            "make room or choose another folder"
        )


def _shards(folder: Path, count: int, size: int) -> dict[Path, range]:
    """The rows of each shard."""
    starts = range(0, count, size)
    return {
        folder / f"{i:05d}-of-{len(starts):05d}.safetensors": range(start, min(start + size, count))
        for i, start in enumerate(starts)
    }


def _troubles(folder: Path, paths: list[Path]) -> dict[Path, str]:
    """Name the trouble with each shard that is missing or damaged.

    Those found whole are remembered by size and time, if the folder can be written to: a terabyte is hashed once.
    """
    verified = folder / VERIFIED
    known = _noted(verified)
    states = {path: _state(path) for path in paths}
    troubles = dict.fromkeys((path for path, state in states.items() if state is None), MISSING)
    unknown = [path for path, state in states.items() if state is not None and known.get(path.name) != state]
    with ThreadPoolExecutor(THREADS) as threads:
        found = zip(unknown, threads.map(_trouble, unknown), strict=True)
        troubles |= {path: trouble for path, trouble in found if trouble}
    whole = {path.name: state for path, state in states.items() if path not in troubles}
    if unknown and whole != known:
        with suppress(OSError):  # somebody else's folder
            write_json(verified, whole)
    return {path: troubles[path] for path in paths if path in troubles}


def _noted(verified: Path) -> dict[str, Any]:
    """What was noted of shards that were found whole; nothing where the note is damaged, for it only saves time."""
    with suppress(OSError, ValueError):
        if isinstance(known := parse_json(verified.read_bytes()), dict):
            return known
    return {}


def _state(path: Path) -> list[int] | None:
    """Size and time of a file; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _trouble(path: Path) -> str:
    """Name the trouble with the contents of a shard; nothing if it is whole."""
    try:
        tensors, metadata = stored_tensors(path)
    except SafetensorError as error:
        return f"is damaged ({error})"
    return "" if HASH in metadata and is_whole(tensors, metadata) else "is damaged (its contents do not fit its hash)"
