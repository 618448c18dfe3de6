"""Images in tar shards, as WebDataset and Hugging Face keep them: read where they lie, nothing is unpacked."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from robustok.data.classes import Classes, by_folder, by_name, classes_of, is_missing, synset_of, unlabeled
from robustok.data.downloads import Downloads, is_address
from robustok.data.images import short_hash
from robustok.data.listing import archives_in
from robustok.data.order import Windows
from robustok.data.patterns import expanded, matches
from robustok.data.pictures import SUFFIXES, Errors, Pictures, some, tell_unread
from robustok.data.tar_index import ShardIndex, index_of, key_of

LABELS = ("cls", "json:label", "json:cls", "json:class", "json:class_id")  # where labels are looked for, in this order
INDEXED_AT_ONCE = 8  # shards


class TarFiles:
    """The images of tar files, in the order of the files and of their members.

    `pattern` is a path, an http(s) address, or several as a shell would write them: `shards/*.tar`,
    `https://host/train-{000..127}.tar`. Shards behind an address are fetched whole, see `downloads`. Compressed tars
    are refused: they have no places to read from. Each shard's index is read once and remembered.

    labels   where a sample tells its class: "cls" (a member `KEY.cls`), "json:FIELD" (of `KEY.json`), "folder" (the
             folder that it lies in), "synset" (n01440764_18.JPEG), or "none". None: the first field that is there, else
             what the folder would tell that the tar was made of: one class per folder, or synsets, or one class.
    window   shards that are mixed in an epoch, see `order.Windows`; None: all, which slow disks do not like

    Raises ValueError for a shard that is cut short or damaged, without images, or where labels are missing.
    """

    def __init__(self, pattern: str | Path, *, labels: str | None = None, window: int | None = None):
        self.place = str(pattern)
        if is_address(self.place):
            addresses = expanded(self.place)
        elif Path(pattern).is_dir():
            addresses = list(map(str, archives_in(Path(pattern), ".tar")))
        else:
            addresses = matches(self.place)
        if not addresses:
            raise ValueError(f"there is no file {pattern}; give a tar file, or a pattern such as 'shards/*.tar'")
        self.downloads = Downloads([name for name in addresses if is_address(name)], window=window)

        def index(name: str) -> ShardIndex:
            if is_address(name):
                return index_of(name, list(self.downloads.remote[name]), lambda: self.downloads.path(name))
            path = Path(name)
            state = path.stat()
            return index_of(str(path.resolve()), [state.st_size, state.st_mtime_ns], lambda: path)

        with ThreadPoolExecutor(INDEXED_AT_ONCE) as threads:
            found = list(threads.map(index, addresses))
        filled = [(name, shard) for name, shard in zip(addresses, found, strict=True) if shard.names]
        if not filled:
            others = sorted({suffix for shard in found for suffix in shard.others})
            there = f"; found {', '.join(others)}" if others else ""
            raise ValueError(f"no image found in {pattern}; wanted members that end in {', '.join(SUFFIXES)}{there}")
        tell_unread([suffix for shard in found for suffix in shard.others], self.place)
        self.shards = tuple(name for name, _ in filled)
        counts = [len(shard.names) for _, shard in filled]
        self._starts = np.array([0, *accumulate(counts)])
        self.members = [name for _, shard in filled for name in shard.names]
        self._offsets = np.concatenate([shard.offsets for _, shard in filled])
        self._sizes = np.concatenate([shard.sizes for _, shard in filled])
        self.windows = None if window is None else Windows(tuple(counts), window)
        self.classes, self.labels = _labels(self, [shard for _, shard in filled], labels)

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> bytes:
        shard = self.shard_of(index)
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        for again in (False, True):
            try:
                with self._local(shard).open("rb") as file:
                    file.seek(offset)
                    data = file.read(size)
                break
            except FileNotFoundError:  # another process made room
                if again or not is_address(shard):
                    raise
        if len(data) < size:
            raise ValueError(f"{shard} was cut short: {self.members[index]} ends beyond it; fetch it again")
        return data

    def name(self, index: int) -> str:
        return f"{self.members[index]} of {self.shard_of(index).rpartition('/')[2]}"

    def shard_of(self, index: int) -> str:
        """Path or address of the shard that an image is in."""
        return self.shards[int(np.searchsorted(self._starts, index, side="right")) - 1]

    def describe(self) -> dict[str, Any]:
        listing = "\n".join(f"{name} {size}" for name, size in zip(self.members, self._sizes, strict=True))
        first = self.shards[0].rpartition("/")[2]
        name = first if len(self.shards) == 1 else f"{len(self.shards)} shards, {first} ..."
        return {"name": name, "count": len(self), "hash": short_hash(os.fsencode(listing))}

    def _local(self, shard: str) -> Path:
        return self.downloads.path(shard) if is_address(shard) else Path(shard)


class TarImages(Pictures):
    """The images of tar shards as an image set. `labels` and `window` as for `TarFiles`, the rest as for `Pictures`."""

    def __init__(
        self,
        pattern: str | Path,
        size: int,
        *,
        labels: str | None = None,
        window: int | None = None,
        errors: Errors = "defer",
        upscale: bool = False,
        flip: bool = True,
        draft: bool = False,
        workers: int | None = None,
    ):
        files = TarFiles(pattern, labels=labels, window=window)
        super().__init__(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)


def _labels(files: TarFiles, shards: Sequence[ShardIndex], wanted: str | None) -> Classes:
    """Classes and labels as the samples tell them. Raises ValueError where some do not, naming what there is."""
    names, fields = files.members, sorted({field for shard in shards for field in shard.fields})
    match wanted:
        case "none":
            return unlabeled(len(names))
        case "folder":
            return by_name([name.rpartition("/")[0].rpartition("/")[2] for name in names])
        case "synset":
            return _complete(files, "synset", [synset_of(name) for name in names], fields)
        case None:
            wanted = next((field for field in LABELS if field in fields), None)
            if wanted is None:
                filled = {str(above) for name in names for above in Path(name).parents}
                return by_folder(names, sorted({f for shard in shards for f in shard.empty} - filled), files.place)
    values = [value for shard in shards for value in shard.fields.get(wanted, [None] * len(shard.names))]
    several = [key for key, count in Counter(map(key_of, names)).items() if count > 1] if any(values) else []
    if several:
        kinds = [name for name in names if key_of(name) == several[0]]
        raise ValueError(
            f"a sample is one image, but {several[0]} has {some(kinds)}; keep one of them, or choose labels 'none'"
        )
    return _complete(files, wanted, values, fields)


def _complete(files: TarFiles, wanted: str, values: Sequence[Any], fields: Sequence[str]) -> Classes:
    missing = [index for index, value in enumerate(values) if is_missing(value)]
    if missing:
        raise ValueError(
            f"the label {wanted!r} is missing for {len(missing)} of {len(values)} images, first for "
            f"{files.name(missing[0])}; samples have {', '.join(fields) or 'no field'}: choose labels from these, or "
            "'folder', 'synset' or 'none'"
        )
    return classes_of(values, f"{wanted!r} in {files.place}")
