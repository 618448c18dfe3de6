"""Folders of tensors that are made shard by shard: whatever stops it, the next try goes on where it was.

A folder holds `manifest.json`, which says what the tensors are and were made from, and shards of consecutive rows.
The manifest is written first, so that it marks the folder; every shard is written whole or not at all.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustok.runtime.checkpoint import read_json, write_bytes, write_json

MANIFEST = "manifest.json"


def write_shards(
    folder: Path,
    kind: str,
    manifest: Mapping[str, Any],
    count: int,
    make: Callable[[range], dict[str, Tensor]],
    *,
    shard_size: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill the folder with `count` rows of a `kind`; `make` is asked for those of each shard that is not there yet.

    `progress` is told how many rows are there. Raises ValueError if the folder holds what another manifest describes.
    """
    wanted = json.loads(json.dumps({"kind": kind, **manifest, "count": count, "shard_size": shard_size}))
    if (folder / MANIFEST).exists():
        found = read_json(folder / MANIFEST)
        for name in wanted | found:
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"{folder} was made with {name} {found.get(name)}, not {wanted.get(name)}; "
                    "choose another folder, or delete this one"
                )
    else:
        write_json(folder / MANIFEST, wanted)
    for path, rows in _shards(folder, count, shard_size):
        if isinstance(_read(path), str):
            tensors = make(rows)
            assert all(len(tensor) == len(rows) for tensor in tensors.values())
            write_bytes(path, safetensors.torch.save(tensors, {"sha256": _hash(tensors)}))
        if progress is not None:
            progress(rows.stop)


def read_shards(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the tensors, all rows of them. Raises ValueError if a shard is missing or damaged."""
    manifest = read_json(folder / MANIFEST)
    if manifest.get("kind") != kind:
        raise ValueError(
            f"{folder} holds {manifest.get('kind', 'something else')}, not {kind}; give a folder of {kind}"
        )
    shards = []
    for path, _ in _shards(folder, manifest["count"], manifest["shard_size"]):
        shard = _read(path)
        if isinstance(shard, str):
            raise ValueError(f"{path} {shard}; run again what made the folder, which makes only what is missing")
        shards.append(shard)
    with torch.autocast("cpu", enabled=False):  # whose cat does not take float16
        return manifest, {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _shards(folder: Path, count: int, size: int) -> list[tuple[Path, range]]:
    """Path and rows of each shard."""
    starts = range(0, count, size)
    return [
        (folder / f"{i:05d}-of-{len(starts):05d}.safetensors", range(start, min(start + size, count)))
        for i, start in enumerate(starts)
    ]


def _read(path: Path) -> dict[str, Tensor] | str:
    """The tensors of a shard, or what is wrong with it."""
    if not path.exists():
        return "is missing"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        return f"is damaged ({error})"
    return tensors if metadata.get("sha256") == _hash(tensors) else "is damaged (its contents do not fit its hash)"


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
