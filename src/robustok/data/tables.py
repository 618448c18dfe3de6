"""Images in tables: parquet files, datasets of the Hugging Face hub, folders that `Dataset.save_to_disk` wrote.

Parquet has no places of single images, so row groups are read whole, the last ones stay in memory, and an epoch mixes
windows of them (`order.Windows`), each being read once an epoch; pyarrow is all it takes. The others are Arrow files
that are mapped into memory, so that any image is a place in a file; a name of the hub takes datasets, which fetches and
converts the set once.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from robustok.data.classes import SPLITS
from robustok.data.columns import FIRST, Columns, NoImagesError, image_bytes
from robustok.data.file_names import is_hidden, matches
from robustok.data.image_files import BrokenFileError, Files
from robustok.data.order import Windows
from robustok.runtime.checkpoint import parse_json
from robustok.runtime.extras import needed
from robustok.runtime.words import reason, some

T = TypeVar("T")
MIXED = 4096  # images that a window holds at least, unless it is given
LARGEST = 2e9  # bytes of a row group, at most
PREFIX = "hf:"  # of the name of a dataset on the hub
SAMPLE = 64  # images whose bytes name the set


class ParquetFiles(Files):
    """The images of parquet files, in the order of their names: a file, a folder or a pattern.

    `labels` is the column of labels, "none", or None for a usual one; `window` the row groups that an epoch mixes, as
    many as hold `MIXED` images unless given; twice as many are kept in memory. Raises ValueError where there are no
    images or labels, where splits lie side by side, or where row groups are too large to be kept.
    """

    def __init__(self, path: str | Path, *, labels: str | None = None, window: int | None = None):
        pa = needed("pyarrow", "data", f"reading {path}")
        import pyarrow.parquet as pq

        self.place, self.paths, told = str(path), _paths(str(path)), None
        try:
            self._metadata = [pq.read_metadata(file) for file in self.paths]
            columns = _columns(self.paths, self.place, labels)
            if columns.label:
                parts = [pq.read_table(file, columns=[columns.label], partitioning=None) for file in self.paths]
                told = [value for part in parts for value in part.column(0).to_pylist()]
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read as parquet ({reason(error)}); fetch it again") from error
        counts = [metadata.num_row_groups for metadata in self._metadata]
        self.groups = [(file, number) for file, count in enumerate(counts) for number in range(count)]
        about = [self._metadata[file].row_group(number) for file, number in self.groups]
        self._starts = np.array([0, *accumulate(group.num_rows for group in about)])
        count = int(self._starts[-1])
        if not count:
            raise ValueError(f"{path} has no rows; give parquet files of images")
        for (file, number), group in zip(self.groups, about, strict=True):
            if group.total_byte_size > LARGEST:
                raise ValueError(
                    f"row group {number} of {self.paths[file]} has {group.num_rows} rows, "
                    f"{group.total_byte_size / 1e9:.3g} GB, and is read whole for each of its images; write the file "
                    "again with row_group_size=100"
                )
        self._image = columns.image
        self.classes, self.labels = columns.labels(told or [None] * count, self.place)
        window = min(window or max(2, -(-MIXED * len(about) // count)), len(about))
        self.windows = Windows(tuple(group.num_rows for group in about), window)
        self._recent = recent(self._load, 2 * window)

    def read(self, index: int) -> bytes:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._recent(group)[index - int(self._starts[group])].as_py()
        return image_bytes(value, self.name(index), self.place)

    def listed(self) -> tuple[str, str]:
        counts = [metadata.num_rows for metadata in self._metadata]
        name = Path(os.path.abspath(self.place)).name if len(self.paths) > 1 else self.paths[0].name
        files = zip(self.paths, counts, strict=True)
        return name, "\n".join(f"{path.name} {path.stat().st_size} {count}" for path, count in files)

    def _load(self, index: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self.groups[index]
        path = self.paths[file]
        try:
            with pq.ParquetFile(path, metadata=self._metadata[file]) as opened:
                return opened.read_row_group(number, columns=[self._image], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"row group {number} of {path} is damaged or cut short ({reason(error)}); fetch it again"
            ) from error


def recent(load: Callable[[int], T], most: int) -> Callable[[int], T]:
    """`load` by number, its last `most` values kept; threads that ask for the same one wait for it."""
    kept, locks = lru_cache(most)(load), dict[int, Lock]()

    def loaded(number: int) -> T:
        with locks.setdefault(number, Lock()):
            return kept(number)

    return loaded


def _columns(paths: Sequence[Path], place: str, labels: str | None) -> Columns:
    """The columns of all files. Raises ValueError where they differ."""
    import pyarrow.parquet as pq

    @cache
    def first(name: str) -> list[Any]:
        """The first cells of a column of the first file, which is like the others."""
        with pq.ParquetFile(paths[0]) as file:
            known = name in file.schema_arrow.names
            batches = file.iter_batches(FIRST, columns=[name]) if known else ()
            return next((batch.column(0).to_pylist() for batch in batches), [])

    found = [Columns.of(pq.read_schema(file), str(file), label=labels, first=first) for file in paths]
    for file, columns in zip(paths, found, strict=True):
        if columns != found[0]:
            raise ValueError(
                f"{file} and {paths[0]} of {place} have other columns or other names of classes; write them alike, or "
                "give one of them"
            )
    return found[0]


def holds_images(file: Path) -> bool:
    """Tell whether a parquet file has a column of images, or cannot be looked into."""
    try:
        _columns([file], str(file), "none")
    except (ValueError, OSError, ImportError) as error:
        return not isinstance(error, NoImagesError)
    return True


def _paths(place: str) -> Sequence[Path]:
    """The files of a path or pattern, in the order of their names. Raises ValueError for several splits."""
    folder = Path(place)
    if folder.is_dir():
        found = [path for path in folder.rglob("*") if path.suffix.lower() == ".parquet" and path.is_file()]
        files = sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))
    else:
        files = list(map(Path, matches(place)))
    if not files:
        raise ValueError(
            f"there is no parquet file in {place}; give a file, a folder or a pattern such as 'train-*.parquet'"
        )
    splits = sorted({file.name.partition("-")[0].partition(".")[0].lower() for file in files} & SPLITS)
    if len(splits) > 1:
        raise ValueError(
            f"{place} holds the splits {some(splits)}; give a pattern that takes one of them, such as "
            f"'{files[0].parent}/{splits[-1]}-*.parquet'"
        )
    return files


class ArrowFiles(Files):
    """The images of an Arrow table. Raises ValueError where no column holds images, or labels are missing."""

    def __init__(self, table: Any, place: str, *, labels: str | None = None, features: dict[str, Any] | None = None):
        if not table.num_rows:
            raise ValueError(f"{place} has no rows; give a set of images")

        def first(name: str) -> list[Any]:
            """The first cells of a column."""
            return list(table.column(name)[:FIRST].to_pylist())

        columns = Columns.of(table.schema, place, label=labels, first=first, features=features)
        self.place, self._images = place, table.column(columns.image)
        told = table.column(columns.label).to_pylist() if columns.label else [None] * table.num_rows
        self.classes, self.labels = columns.labels(told, place)

    def read(self, index: int) -> bytes:
        return image_bytes(self._images[index].as_py(), self.name(index), self.place)

    def listed(self) -> tuple[str, bytes]:
        """The listing is of all labels and of some images, evenly spaced."""
        listing = self.labels.numpy().tobytes()
        for index in sorted({number * len(self) // SAMPLE for number in range(SAMPLE)}):
            with suppress(BrokenFileError):  # an empty cell
                listing += self.read(index)
        return self.place.rstrip("/").rpartition("/")[2], listing


def saved_files(folder: str | Path, *, labels: str | None = None) -> ArrowFiles:
    """The images of a folder that `Dataset.save_to_disk` wrote. Raises ValueError for one of several splits."""
    pa, folder = needed("pyarrow", "data", f"reading {folder}"), Path(folder)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if (path / "state.json").is_file())
        example = f": {folder / splits[0]}" if splits else ""
        raise ValueError(f"{folder} holds the splits {some(splits)}; give one of them{example}")
    try:
        names = [entry["filename"] for entry in parse_json((folder / "state.json").read_bytes())["_data_files"]]
        tables = [pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all() for name in names]
        features = parse_json((folder / "dataset_info.json").read_bytes()).get("features")
    except Exception as error:  # JSON of another form makes nearly anything be raised
        why = reason(error)
        raise ValueError(f"{folder} is no whole folder of Dataset.save_to_disk ({why}); save it again") from error
    return ArrowFiles(pa.concat_tables(tables), str(folder), labels=labels, features=features)


def hub_files(name: str, split: str, *, labels: str | None = None) -> ArrowFiles:
    """The images of `hf:owner/name` or `hf:owner/name:split`. Raises ValueError where the set cannot be had."""
    name, _, given = name.removeprefix(PREFIX).partition(":")
    if not name.strip():
        raise ValueError(f"{PREFIX}{name} names no dataset; write {PREFIX}owner/name or {PREFIX}owner/name:split")
    datasets = needed("datasets", "data", f"{PREFIX}{name}")
    try:
        dataset = datasets.load_dataset(name, split=given or split)
    except Exception as error:  # datasets raises nearly anything
        raise ValueError(
            f"{PREFIX}{name} cannot be had ({reason(error)}); look at its name, its splits, and the network"
        ) from error
    return ArrowFiles(dataset.data.table, f"{PREFIX}{name}:{given or split}", labels=labels)


def is_saved(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote a folder."""
    whole = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return whole or (folder / "dataset_dict.json").is_file()
