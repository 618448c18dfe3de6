"""What a tar shard holds: places of its images, and what its samples say of them. Read once, then remembered."""

import json
import posixpath
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from robustok.data.cached import cached_file, keep
from robustok.data.listing import is_hidden
from robustok.data.pictures import SUFFIXES

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
    places, links = dict[str, tuple[int, int]](), dict[str, str]()  # by path: first byte and bytes; what is linked to
    folders, others, samples = set[str](), set[str](), dict[str, dict[str, Any]]()  # of the samples: fields by key
    last = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                name = posixpath.normpath(entry.name).lstrip("/")
                suffix = Path(name).suffix.lower()
                if entry.isdir() and name != ".":
                    folders.add(name)
                elif entry.issym() or entry.islnk():
                    links[name] = entry.linkname if entry.islnk() else posixpath.join(Path(name).parent, entry.linkname)
                elif entry.isfile() and suffix in SUFFIXES:
                    places[name], last = (entry.offset_data, entry.size), name
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
    for name, target in links.items():
        _follow(name, target, places, links, folders)
    names = [name for name in places if not _is_hidden(name)]
    found = [samples.get(key_of(name), {}) for name in names]
    fields = {field: [sample.get(field) for sample in found] for field in sorted({f for s in found for f in s})}
    filled = {str(above) for name in names for above in Path(name).parents}
    return ShardIndex(
        names,
        [places[name][0] for name in names],
        [places[name][1] for name in names],
        fields,
        sorted(name for name in folders - filled if not _is_hidden(name)),
        sorted(others),
    )


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in name.split("/") if part != "..")


def _follow(
    name: str, target: str, places: dict[str, tuple[int, int]], links: dict[str, str], folders: set[str]
) -> None:
    """Put what a link stands for among the images and folders; a link to nowhere is a broken image, an empty folder."""
    for _ in range(LINKS):
        target = posixpath.normpath(target).lstrip("/")
        if target not in links:
            break
        target = links[target]
    if Path(name).suffix.lower() in SUFFIXES:
        places[name] = places.get(target, (0, 0))
    elif within := {path: place for path, place in places.items() if path.startswith(f"{target}/")}:
        places.update({name + path[len(target) :]: place for path, place in within.items()})
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
    """What the members of one sample share: the path up to the first dot of the file's name, as in WebDataset."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _fields(suffix: str, content: bytes) -> Mapping[str, Any]:
    """What a sample says that may be a label: numbers and short texts."""
    if suffix == ".cls":
        return {"cls": content.decode(errors="replace").strip()}
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    short = {name: value for name, value in told.items() if _may_label(value)} if isinstance(told, dict) else {}
    return {f"json:{name}": value for name, value in short.items()}


def _may_label(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) < LONGEST)
