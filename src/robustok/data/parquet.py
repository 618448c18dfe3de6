"""Images in parquet files: read by row groups, the last ones of which stay in memory.

Parquet has no places of single images, so an epoch mixes windows of row groups (`order.Windows`), each group being read
once an epoch. Nothing but pyarrow is needed.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from robustok.data.classes import SPLITS
from robustok.data.columns import FIRST, Columns, NoImagesError, arrow, image_bytes
from robustok.data.images import short_hash
from robustok.data.listing import is_hidden
from robustok.data.order import Windows
from robustok.data.patterns import matches
from robustok.data.pictures import Errors, Pictures, some

MIXED = 4096  # images that a window holds at least, unless it is given
LARGEST = 2e9  # bytes of a row group, at most


class Group(NamedTuple):
    """A row group of a file."""

    file: int
    number: int
    rows: int


class ParquetFiles:
    """The images of parquet files, in the order of their names: a file, a folder or a pattern.

    `labels` is the column of labels, "none", or None for a usual one; `window` the row groups that an epoch mixes, as
    many as hold `MIXED` images unless given; twice as many are kept in memory. Raises ValueError where there are no
    images or labels, where splits lie side by side, or where row groups are too large to be kept.
    """

    def __init__(self, path: str | Path, *, labels: str | None = None, window: int | None = None):
        arrow(f"reading {path}")
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.place, self.paths = str(path), _paths(str(path))
        try:
            self._metadata = [pq.read_metadata(file) for file in self.paths]
            columns = _columns(self.paths, self.place, labels)
            told = _told(self.paths, columns.label)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read as parquet ({error}); fetch it again") from error
        self.groups = [
            Group(file, number, metadata.row_group(number).num_rows)
            for file, metadata in enumerate(self._metadata)
            for number in range(metadata.num_row_groups)
        ]
        self._starts = np.array([0, *accumulate(group.rows for group in self.groups)])
        if not len(self):
            raise ValueError(f"{path} has no rows; give parquet files of images")
        self._image = columns.image
        self._check_groups()
        self.classes, self.labels = columns.labels(told if columns.label else [None] * len(self), self.place)
        window = min(window or max(2, -(-MIXED * len(self.groups) // len(self))), len(self.groups))
        self.windows: Windows | None = Windows(tuple(group.rows for group in self.groups), window)
        self._recent = Recent(self._load, 2 * window)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> bytes:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._recent[group][index - int(self._starts[group])].as_py()
        return image_bytes(value, self.name(index), self.place)

    def name(self, index: int) -> str:
        return f"row {index}"

    def describe(self) -> dict[str, Any]:
        counts = [metadata.num_rows for metadata in self._metadata]
        files = "\n".join(f"{path.name} {path.stat().st_size} {n}" for path, n in zip(self.paths, counts, strict=True))
        name = Path(os.path.abspath(self.place)).name if len(self.paths) > 1 else self.paths[0].name
        return {"name": name, "count": len(self), "hash": short_hash(files.encode())}

    def _load(self, number: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        group = self.groups[number]
        path = self.paths[group.file]
        try:
            with pq.ParquetFile(path, metadata=self._metadata[group.file]) as file:
                return file.read_row_group(group.number, columns=[self._image], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"row group {group.number} of {path} is damaged or cut short ({error}); fetch it again"
            ) from error

    def _check_groups(self) -> None:
        for group in self.groups:
            size = self._metadata[group.file].row_group(group.number).total_byte_size
            if size > LARGEST:
                raise ValueError(
                    f"row group {group.number} of {self.paths[group.file]} has {group.rows} rows, {size / 1e9:.3g} GB, "
                    "and is read whole for each of its images; write the file again with row_group_size=100"
                )


class ParquetImages(Pictures):
    """Parquet files as an image set. `labels` and `window` as for `ParquetFiles`, the rest as for `Pictures`."""

    def __init__(
        self,
        path: str | Path,
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
        files = ParquetFiles(path, labels=labels, window=window)
        super().__init__(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)


class Recent:
    """What `load` makes of a number, the last `most` of them kept; threads that ask for the same one wait for it."""

    def __init__(self, load: Callable[[int], Any], most: int):
        self._load, self._most = load, most
        self._kept = OrderedDict[int, Future[Any]]()
        self._lock = Lock()

    def __getitem__(self, number: int) -> Any:
        with self._lock:
            known = self._kept.get(number)
            future = known or self._kept.setdefault(number, Future())
            self._kept.move_to_end(number)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        if known is None:
            try:
                future.set_result(self._load(number))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(number, None)
                future.set_exception(error)
        return future.result()


def _columns(paths: Sequence[Path], place: str, labels: str | None) -> Columns:
    """The columns of all files. Raises ValueError where they differ."""
    import pyarrow.parquet as pq

    @cache
    def first(name: str) -> list[Any]:  # of the first file, which is like the others
        with pq.ParquetFile(paths[0]) as file:
            known = name in file.schema_arrow.names
            batch = next(file.iter_batches(FIRST, columns=[name]), None) if known else None
            return batch.column(0).to_pylist() if batch is not None else []

    found = [Columns.of(pq.read_schema(file), str(file), labels, first) for file in paths]
    for file, columns in zip(paths, found, strict=True):
        if columns != found[0]:
            raise ValueError(
                f"{file} and {paths[0]} of {place} have other columns or other names of classes; write them alike, or "
                "give one of them"
            )
    return found[0]


def _told(paths: Sequence[Path], label: str | None) -> list[Any]:
    """The values of the label column of all files."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(file, columns=[label], partitioning=None) for file in paths] if label else []
    return [value for table in tables for value in table.column(0).to_pylist()]


def holds_images(file: Path) -> bool:
    """Whether a parquet file has a column of images, or cannot be looked into."""
    try:
        _columns([file], str(file), "none")
    except NoImagesError:
        return False
    except (ValueError, OSError, ImportError):
        return True
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
