"""The columns of a table that hold images and labels, as Hugging Face and others write them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from robustok.data.classes import Classes, among, check_none_lost, classes_of, is_missing, unlabeled
from robustok.data.image_files import BrokenFileError
from robustok.runtime.checkpoint import parse_json

IMAGES = ("image", "img", "jpg", "png", "picture", "photo")  # how a column of images is called, where there are several
FIRST = 16  # cells that are looked at to tell images from other bytes
LABELS = ("label", "labels", "cls", "class", "fine_label")  # where labels are looked for, in this order


class NoImagesError(ValueError):
    """A table without a column of images."""


class Columns(NamedTuple):
    """The columns of a table of images."""

    image: str
    label: str | None
    names: tuple[str, ...] | None  # of the classes, where the table tells them

    @classmethod
    def of(
        cls,
        schema: Any,
        place: str,
        *,
        label: str | None,
        first: Callable[[str], list[Any]],
        features: dict[str, Any] | None = None,
    ) -> "Columns":
        """The columns of an Arrow schema; `label` names that of labels, or is "none". Raises ValueError.

        `first` gives the first cells of a column, which tell images from other bytes.
        """
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{place} has {schema.names.count(twice)} columns called {twice!r}; rename or drop some")
        if label is None:
            label = _called(LABELS, schema.names)
        elif label == "none":
            label = None
        elif label not in schema.names:
            raise ValueError(
                f"{place} has no column {label!r}; choose labels from {', '.join(schema.names)}, or 'none'"
            )
        known = features or _features(schema)
        about = {name: entry for name, entry in known.items() if isinstance(entry, dict)}  # of the usual kind
        names = about.get(label, {}).get("names") if label else None
        declared = [name for name in schema.names if about.get(name, {}).get("_type") == "Image"]
        return cls(_image_column(schema, place, first, declared), label, tuple(names) if names else None)

    def labels(self, told: Sequence[Any], place: str) -> Classes:
        """Classes and labels (count,) of the values of the label column. Raises ValueError where one is missing."""
        if self.label is None:
            return unlabeled(len(told))
        missing = sum(is_missing(value) for value in told)
        if missing:
            raise ValueError(
                f"{missing} of {len(told)} images in {place} have no {self.label!r}, as in test splits; "
                "choose another split or column, or labels 'none'"
            )
        what = f"{self.label!r} in {place}"
        if self.names is None:
            return classes_of(told, what)
        classes, labels = among(told, self.names, what)
        check_none_lost(torch.arange(len(classes)), labels, classes, place)
        return classes, labels


def _image_column(schema: Any, place: str, first: Callable[[str], list[Any]], declared: list[str]) -> str:
    """The column of images: what is declared so, else what may be; of several the one called so, or that opens."""
    structs = [field.name for field in schema if _is_struct_of_bytes(field.type)]
    found = declared or structs or [field.name for field in schema if _is_binary(field.type)]
    if not found:
        raise NoImagesError(
            f"no column of {place} holds images: they are binary, or a struct of bytes and path; "
            f"found {', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    called = _called(IMAGES, found)
    if called or (len(found) == 1 and (declared or structs)):
        return called or found[0]
    opened = [name for name in found if any(map(_opens, first(name)))]
    if len(opened) == 1:
        return opened[0]
    if opened:
        raise ValueError(
            f"the columns {', '.join(opened)} of {place} hold images; call the one you mean 'image', or drop others"
        )
    raise NoImagesError(
        f"no column of {place} holds images: the first cells of {', '.join(found)} are no image files; write "
        "image files (PNG, JPEG ...) as they are into a binary column called 'image'"
    )


def image_bytes(value: Any, name: str, place: str) -> bytes:
    """The file in a cell of an image column. Raises ValueError where it only says where the file was."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is not None:
        return bytes(data)
    path = value.get("path") if isinstance(value, dict) else None
    if not path:
        raise BrokenFileError(name, place, "the cell is empty")
    if Path(path).is_file():
        return Path(path).read_bytes()
    raise ValueError(
        f"{name} of {place} is a path, {path}, not an image: datasets saves an image folder so unless it is embedded; "
        "save dataset.with_format('arrow').map(datasets.table.embed_table_storage, batched=True), or give the folder"
    )


def _features(schema: Any) -> dict[str, Any]:
    """The features that datasets wrote into the metadata, by column; none where these are damaged."""
    with suppress(ValueError, AttributeError):
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return features if isinstance(features, dict) else {}
    return {}


def _is_struct_of_bytes(kind: Any) -> bool:
    """Tell whether a type is a struct of bytes and path, in any order, or of bytes alone."""
    if not str(kind).startswith("struct<"):
        return False
    inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return set(inner) <= {"bytes", "path"} and "bytes" in inner and _is_binary(inner["bytes"])


def _is_binary(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _opens(value: Any) -> bool:
    """Tell whether a cell begins as an image file does."""
    data = value.get("bytes") if isinstance(value, dict) else value
    try:
        with Image.open(BytesIO(data or b"")):
            return True
    except Exception:  # strangers' bytes make Pillow raise nearly anything
        return False


def _called(usual: Sequence[str], names: Sequence[str]) -> str | None:
    """The first usual name that is there, whatever its case."""
    there = {name.lower(): name for name in reversed(names)}
    return next((there[name] for name in usual if name in there), None)
