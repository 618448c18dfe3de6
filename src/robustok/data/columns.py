"""Which columns of a table hold images and labels, as Hugging Face and others write them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustok.data.folder import classes_of

LABELS = ("label", "labels", "cls", "class", "fine_label")  # where labels are looked for, in this order


class Columns(NamedTuple):
    """The columns of a table of images."""

    image: str
    label: str | None
    names: tuple[str, ...] | None  # of the classes, where the table tells them

    @classmethod
    def of(cls, schema: Any, place: str, label: str | None, features: dict[str, Any] | None = None) -> "Columns":
        """The columns of an Arrow schema; `label` names that of labels, or is "none". Raises ValueError."""
        features = features or _features(schema)
        image = next((field.name for field in schema if _is_image(field, features.get(field.name))), None)
        if image is None:
            raise ValueError(
                f"no column of {place} holds images: they are binary, or a struct of bytes and path; "
                f"found {', '.join(f'{field.name} ({field.type})' for field in schema)}"
            )
        if label is None:
            label = next((name for name in LABELS if name in schema.names), None)
        elif label == "none":
            label = None
        elif label not in schema.names:
            raise ValueError(
                f"{place} has no column {label!r}; choose labels from {', '.join(schema.names)}, or 'none'"
            )
        names = (features.get(label) or {}).get("names") if label else None
        return cls(image, label, tuple(names) if names else None)

    def labels(self, column: Any, count: int, place: str) -> tuple[tuple[str, ...], Tensor]:
        """Classes and labels (count,) of the values of the label column. Raises ValueError where one is missing."""
        if self.label is None:
            return ("images",), torch.zeros(count, dtype=torch.int64)
        told = column.to_pylist()
        missing = sum(value is None or value == -1 for value in told)
        if missing:
            raise ValueError(
                f"{missing} of {count} images in {place} have no {self.label!r}, as in test splits; "
                "choose another split or column, or labels 'none'"
            )
        if self.names is None:
            return classes_of(told)
        return self.names, torch.tensor(told, dtype=torch.int64)


def image_bytes(value: Any, name: str, place: str) -> bytes:
    """The file in a cell of an image column. Raises ValueError where it only says where the file was."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is not None:
        return bytes(data)
    path = value.get("path") if isinstance(value, dict) else None
    if path and Path(path).is_file():
        return Path(path).read_bytes()
    raise ValueError(
        f"{name} of {place} is a path, {path}, not an image: datasets saves an image folder so unless it is embedded; "
        "save dataset.with_format('arrow').map(datasets.table.embed_table_storage, batched=True), or give the folder"
    )


def _features(schema: Any) -> dict[str, Any]:
    """What datasets wrote of each column into the metadata."""
    told = (schema.metadata or {}).get(b"huggingface")
    features: dict[str, Any] = json.loads(told).get("info", {}).get("features", {}) if told else {}
    return features


def _is_image(field: Any, feature: Any) -> bool:
    if isinstance(feature, dict) and feature.get("_type"):
        return bool(feature["_type"] == "Image")
    kind = str(field.type)
    return kind in ("binary", "large_binary") or kind.replace("large_", "").startswith("struct<bytes: binary")


def arrow(what: str) -> Any:
    """pyarrow. Raises ValueError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError(f"{what} takes pyarrow; pip install 'robustok[data]'") from error
    return pyarrow
