"""Images of Hugging Face datasets: by name, or a folder that `Dataset.save_to_disk` wrote.

Both are Arrow files that are mapped into memory, so that any image is a place in a file. A folder takes pyarrow alone,
a name takes datasets, which fetches and converts the set once.
"""

import json
from pathlib import Path
from typing import Any

from robustok.data.columns import FIRST, Columns, arrow, image_bytes
from robustok.data.images import short_hash
from robustok.data.order import Windows
from robustok.data.pictures import BrokenFileError, Errors, Pictures
from robustok.runtime.words import reason

PREFIX = "hf:"  # of the name of a dataset on the hub
SAMPLE = 64  # images whose bytes name the set


class ArrowFiles:
    """The images of an Arrow table. Raises ValueError where no column holds images, or labels are missing."""

    windows: Windows | None = None

    def __init__(self, table: Any, place: str, *, labels: str | None = None, features: dict[str, Any] | None = None):
        if not table.num_rows:
            raise ValueError(f"{place} has no rows; give a set of images")

        def first(name: str) -> list[Any]:
            return list(table.column(name)[:FIRST].to_pylist())

        columns = Columns.of(table.schema, place, labels, first, features)
        self.place, self._images = place, table.column(columns.image)
        told = table.column(columns.label).to_pylist() if columns.label else [None] * table.num_rows
        self.classes, self.labels = columns.labels(told, place)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes:
        return image_bytes(self._images[index].as_py(), self.name(index), self.place)

    def name(self, index: int) -> str:
        return f"row {index}"

    def describe(self) -> dict[str, Any]:
        """The hash is of all labels and of some images, evenly spaced."""
        chosen = sorted({number * len(self) // SAMPLE for number in range(SAMPLE)})
        digest = short_hash(self.labels.numpy().tobytes(), *(self._known(index) for index in chosen))
        return {"name": self.place.rstrip("/").rpartition("/")[2], "count": len(self), "hash": digest}

    def _known(self, index: int) -> bytes:
        """What there is of an image."""
        try:
            return self.read(index)
        except BrokenFileError:
            return b""


def saved_files(folder: str | Path, *, labels: str | None = None) -> ArrowFiles:
    """The images of a folder that `Dataset.save_to_disk` wrote. Raises ValueError for one of several splits."""
    pa, folder = arrow(f"reading {folder}"), Path(folder)
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}; give one of them: {folder / splits[0]}")
    try:
        names = [entry["filename"] for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]]
        tables = [pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all() for name in names]
        features = json.loads((folder / "dataset_info.json").read_bytes()).get("features")
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{folder} is no whole folder of Dataset.save_to_disk ({error}); save it again") from error
    return ArrowFiles(pa.concat_tables(tables), str(folder), labels=labels, features=features)


def hub_files(name: str, split: str, *, labels: str | None = None) -> ArrowFiles:
    """The images of `hf:owner/name` or `hf:owner/name:split`. Raises ValueError where the set cannot be had."""
    name, _, given = name.removeprefix(PREFIX).partition(":")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{PREFIX}{name} takes datasets; pip install 'robustok[data]'") from error
    try:
        dataset = load_dataset(name, split=given or split)
    except (OSError, ValueError, RuntimeError) as error:
        why = reason(error)
        raise ValueError(
            f"{PREFIX}{name} cannot be had ({why}); look at its name, its splits, and the network"
        ) from error
    return ArrowFiles(dataset.data.table, f"{PREFIX}{name}:{given or split}", labels=labels)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    whole = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return whole or (folder / "dataset_dict.json").is_file()


class HubImages(Pictures):
    """A Hugging Face dataset as an image set: `hf:owner/name[:split]`, or a folder of `Dataset.save_to_disk`.

    `labels` is the column of labels, "none", or None for a usual one; the rest is as for `Pictures`.
    """

    def __init__(
        self,
        name: str | Path,
        size: int,
        *,
        split: str = "train",
        labels: str | None = None,
        errors: Errors = "defer",
        upscale: bool = False,
        flip: bool = True,
        draft: bool = False,
        workers: int | None = None,
    ):
        named = str(name).startswith(PREFIX)
        files = hub_files(str(name), split, labels=labels) if named else saved_files(name, labels=labels)
        super().__init__(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)
