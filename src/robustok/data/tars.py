"""Images in tar shards, as WebDataset and Hugging Face keep them: read where they lie, nothing is unpacked."""

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustok.data.classes import Classes, by_folder, by_name, classes_of, is_missing, synset_of, unlabeled
from robustok.data.downloads import Downloads, is_address
from robustok.data.file_names import SUFFIXES, archives_in, expanded, is_hidden, matches, tell_unread
from robustok.data.image_files import Files
from robustok.data.order import Windows
from robustok.data.user_cache import cached_file, keep
from robustok.runtime.checkpoint import parse_json
from robustok.runtime.words import some

# `wids.ShardListDataset` (webdataset) also gives sample i of a list of shards, but knows nothing of labels, folders,
# links, repeated names or shards cut short, so that our pass over all headers would stay. After that pass the offset of
# every image is known, and reading one takes ten lines.
LABELS = ("cls", "json:label", "json:cls", "json:class", "json:class_id")  # where labels are looked for, in this order
INDEXED_AT_ONCE = 8  # shards
LONGEST = 64  # characters of a text that can be a label rather than a caption
BLOCK = 512  # bytes, the unit of tar files
LINKS = 40  # links after one another that are followed, as many as Linux does


class ShardIndex(NamedTuple):
    """The images of a shard in its order, and the fields of their samples: "cls", "json:label" ...

    They are those that there are once it is unpacked: a later member of the same name replaces an earlier one, links
    within the shard are followed, and what a folder hides is left out.
    """

    names: list[str]
    offsets: list[int]  # of the first byte
    sizes: list[int]  # bytes
    fields: dict[str, list[Any]]  # by name, for each image; None where a sample lacks it
    empty: list[str]  # folders without images
    others: list[str]  # suffixes of what else there is


class TarFiles(Files):
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
            shards = expanded(self.place)
        elif Path(pattern).is_dir():
            shards = list(map(str, archives_in(Path(pattern), ".tar")))
        else:
            shards = matches(self.place)
        if not shards:
            raise ValueError(f"there is no file {pattern}; give a tar file, or a pattern such as 'shards/*.tar'")
        self.downloads = Downloads([name for name in shards if is_address(name)], window=window)
        with ThreadPoolExecutor(INDEXED_AT_ONCE) as threads:
            found = list(threads.map(self._index, shards))
        others = sorted({suffix for shard in found for suffix in shard.others})
        filled = [shard for shard in found if shard.names]
        if not filled:
            there = f"; found {', '.join(others)}" if others else ""
            raise ValueError(f"no image found in {pattern}; wanted members that end in {', '.join(SUFFIXES)}{there}")
        tell_unread(others, self.place)
        self.shards = tuple(name for name, shard in zip(shards, found, strict=True) if shard.names)
        counts = [len(shard.names) for shard in filled]
        self._starts = np.array([0, *accumulate(counts)])
        self.members = [name for shard in filled for name in shard.names]
        self._offsets = np.concatenate([shard.offsets for shard in filled])
        self._sizes = np.concatenate([shard.sizes for shard in filled])
        self.windows = None if window is None else Windows(tuple(counts), window)
        self.classes, self.labels = self._told(filled, labels)

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

    def listed(self) -> tuple[str, str]:
        first = self.shards[0].rpartition("/")[2]
        name = first if len(self.shards) == 1 else f"{len(self.shards)} shards, {first} ..."
        return name, "\n".join(f"{name} {size}" for name, size in zip(self.members, self._sizes, strict=True))

    def _index(self, shard: str) -> ShardIndex:
        """The index of a shard, which is kept in the user's cache, and read anew when the shard changes."""
        if is_address(shard):
            path, state = cached_file("indices", shard, ".json"), list(self.downloads.remote[shard])
        else:
            about = Path(shard).stat()
            path = cached_file("indices", str(Path(shard).resolve()), ".json")
            state = [about.st_size, about.st_mtime_ns]
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = parse_json(path.read_bytes())
            if known.pop("state") == state:
                return ShardIndex(**known)
        index = _read(self._local(shard), shard if is_address(shard) else str(Path(shard).resolve()))
        keep(path, json.dumps({"state": state, **index._asdict()}).encode())
        return index

    def _local(self, shard: str) -> Path:
        return self.downloads.path(shard) if is_address(shard) else Path(shard)

    def _told(self, shards: Sequence[ShardIndex], wanted: str | None) -> Classes:
        """Classes and labels as the samples tell them. Raises ValueError where some do not, naming what there is."""
        names, fields = self.members, sorted({field for shard in shards for field in shard.fields})
        wanted = wanted or next((field for field in LABELS if field in fields), None)
        if wanted is None:
            filled = {str(above) for name in names for above in Path(name).parents}
            empty = sorted({folder for shard in shards for folder in shard.empty} - filled)
            return by_folder(names, empty, self.place, archive=True)
        if wanted == "none":
            return unlabeled(len(names))
        if wanted == "folder":
            return by_name([name.rpartition("/")[0].rpartition("/")[2] for name in names])
        if wanted == "synset":
            values: list[Any] = [synset_of(name) for name in names]
        else:
            values = [value for shard in shards for value in shard.fields.get(wanted, [None] * len(shard.names))]
            several = [key for key, count in Counter(map(key_of, names)).items() if count > 1] if any(values) else []
            if several:
                kinds = some([name for name in names if key_of(name) == several[0]])
                raise ValueError(
                    f"a sample is one image, but {several[0]} has {kinds}; keep one of them, or choose labels 'none'"
                )
        missing = [index for index, value in enumerate(values) if is_missing(value)]
        if missing:
            raise ValueError(
                f"the label {wanted!r} is missing for {len(missing)} of {len(values)} images, first for "
                f"{self.name(missing[0])}; samples have {', '.join(fields) or 'no field'}: choose labels from these, "
                "or 'folder', 'synset' or 'none'"
            )
        return classes_of(values, f"{wanted!r} in {self.place}")


def _read(shard: Path, called: str) -> ShardIndex:
    """Read the index of a tar file. Raises ValueError for what is no whole tar."""
    spans: dict[str, tuple[int, int]] = {}  # of images: first byte and length
    links: dict[str, str] = {}  # their targets
    samples: dict[str, dict[str, Any]] = {}  # fields by key
    folders, others, last = set[str](), set[str](), None
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                name = posixpath.normpath(entry.name).lstrip("/")
                suffix = Path(name).suffix.lower()
                if entry.isdir() and name != ".":
                    folders.add(name)
                elif entry.issym() or entry.islnk():
                    links[name] = posixpath.join("" if entry.islnk() else Path(name).parent, entry.linkname)
                elif entry.isfile() and suffix in SUFFIXES:
                    spans[name], last = (entry.offset_data, entry.size), name
                elif entry.isfile():
                    others |= set() if _is_hidden(name) else {suffix or Path(name).name}
                    if suffix in (".cls", ".json"):
                        content = tar.extractfile(entry)
                        assert content is not None
                        samples.setdefault(key_of(name), {}).update(_fields(suffix, content.read()))
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{called} is no whole, uncompressed tar ({error}); unpack it, or fetch it again") from error
    _check_end(shard, called, end, last)
    for name in links:
        _follow(name, links, spans, folders)
    names = [name for name in spans if not _is_hidden(name)]
    offsets, sizes = ([spans[name][i] for name in names] for i in (0, 1))
    found = [samples.get(key_of(name), {}) for name in names]
    fields = {field: [sample.get(field) for sample in found] for field in sorted(set().union(*found))}
    filled = {str(above) for name in names for above in Path(name).parents}
    empty = sorted(name for name in folders - filled if not _is_hidden(name))
    return ShardIndex(names, offsets, sizes, fields, empty, sorted(others))


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in name.split("/") if part != "..")


def _follow(name: str, links: dict[str, str], spans: dict[str, tuple[int, int]], folders: set[str]) -> None:
    """Put what a link stands for among the images and folders; a link to nowhere is a broken image, an empty folder."""
    target = links[name]
    for _ in range(LINKS):
        target = posixpath.normpath(target).lstrip("/")
        if target not in links:
            break
        target = links[target]
    if Path(name).suffix.lower() in SUFFIXES:
        spans[name] = spans.get(target, (0, 0))
    elif within := {path: span for path, span in spans.items() if path.startswith(f"{target}/")}:
        spans.update({name + path[len(target) :]: span for path, span in within.items()})
    elif not Path(name).suffix:
        folders.add(name)


def _check_end(shard: Path, called: str, end: int, last: str | None) -> None:
    """Raises ValueError unless the block of zeros that ends a tar is where its members end."""
    with shard.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
    if mark == bytes(BLOCK):
        return
    after = f", after {last}" if last else ""
    what = "is damaged" if len(mark) == BLOCK else "was cut short"
    raise ValueError(f"{called} {what} at byte {end}{after}: a tar ends in zeros; fetch it again")


def key_of(name: str) -> str:
    """The key of a sample: the path of its members up to the first dot of the file's name, as in WebDataset."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _fields(suffix: str, content: bytes) -> Mapping[str, Any]:
    """The entries of a sample that may be a label: numbers and short texts."""
    if suffix == ".cls":
        return {"cls": content.decode(errors="replace").strip()}
    told: Any = None
    with suppress(ValueError):
        told = parse_json(content)
    return {
        f"json:{name}": value
        for name, value in (told.items() if isinstance(told, dict) else ())
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) < LONGEST)
    }
