"""What a tar shard holds: places of its images, and what its samples say of them. Read once, then remembered."""

import json
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from robustok.data.cached import cached_file, keep
from robustok.data.pictures import SUFFIXES

LONGEST = 64  # characters of a text that can be a label rather than a caption
BLOCK = 512  # bytes, the unit of tar files


class ShardIndex(NamedTuple):
    """The images of a shard in its order, and the fields of their samples: "cls", "json:label" ..."""

    names: list[str]
    offsets: list[int]  # of the first byte
    sizes: list[int]  # bytes
    fields: dict[str, list[Any]]  # by name, for each image; None where a sample lacks it
    others: list[str]  # suffixes of what else there is


def index_of(name: str, state: list[Any], local: Callable[[], Path]) -> ShardIndex:
    """The index of a tar file, by its path or address. Raises ValueError for what is no whole tar.

    It is kept in the user's cache, and read anew from where the file lies when its `state` changes.
    """
    path = cached_file("indices", name, ".json")
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(path.read_bytes())
        if known.pop("state") == state:
            return ShardIndex(**known)
    index = _read(local(), name)
    keep(path, json.dumps({"state": state, **index._asdict()}).encode())
    return index


def _read(shard: Path, called: str) -> ShardIndex:
    names, offsets, sizes, others = [], [], [], set()
    samples = dict[str, dict[str, Any]]()  # fields by key
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                suffix = Path(entry.name).suffix.lower()
                if suffix in SUFFIXES:
                    names.append(entry.name)
                    offsets.append(entry.offset_data)
                    sizes.append(entry.size)
                else:
                    others.add(suffix or Path(entry.name).name)
                    if suffix in (".cls", ".json"):
                        content = tar.extractfile(entry)
                        assert content is not None
                        samples.setdefault(key_of(entry.name), {}).update(_fields(suffix, content.read()))
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{called} is no whole, uncompressed tar ({error}); unpack it, or fetch it again") from error
    _check_end(shard, called, end, names[-1] if names else None)
    found = [samples.get(key_of(name), {}) for name in names]
    fields = {field: [sample.get(field) for sample in found] for field in sorted({f for s in found for f in s})}
    return ShardIndex(names, offsets, sizes, fields, sorted(others))


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
    """What the members of one sample share: the path up to the first dot of the file's name, as in WebDataset."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _fields(suffix: str, content: bytes) -> Mapping[str, Any]:
    """What a sample says that may be a label: whole numbers and short texts."""
    if suffix == ".cls":
        return {"cls": content.decode(errors="replace").strip()}
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    short = {name: value for name, value in told.items() if _may_label(value)} if isinstance(told, dict) else {}
    return {f"json:{name}": value for name, value in short.items()}


def _may_label(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and len(value) < LONGEST)
