"""Images from wherever they are, by one name: a folder, tar shards, parquet files, a Hugging Face dataset."""

import os
from pathlib import Path
from typing import Unpack

from robustok.data.downloads import is_address
from robustok.data.file_names import SUFFIXES, archives_in, expanded, is_hidden
from robustok.data.folder import FolderFiles
from robustok.data.image_files import Files, FileView, ImageFiles
from robustok.data.tables import PREFIX, ParquetFiles, holds_images, hub_files, is_saved, saved_files
from robustok.data.tars import TarFiles
from robustok.runtime.words import some

CHECKED = 20_000  # files of a folder that are all decoded once in advance, at most, unless errors say so


def open_images(
    name: str | Path,
    size: int,
    *,
    split: str = "train",
    labels: str | None = None,
    window: int | None = None,
    **view: Unpack[FileView],
) -> ImageFiles:
    """An image set, its kind told by the name:

        photos                              folder of images, one sub-folder per class or all in one place
        train-{0000..0127}.tar, 'a/*.tar'   tar shards; also https://...; also a folder of them
        'data/train-*.parquet', data        parquet files; also a folder of them
        saved                               folder that `datasets.Dataset.save_to_disk` wrote
        hf:owner/name, hf:owner/name:split  dataset of the Hugging Face hub

    split    of the hub's dataset, where its name does not tell
    labels   what tells the class of an image, where it is not found: a file (folders), a field (tar shards), a column
             (the others), or "none"
    window   shards or row groups that an epoch mixes, see `order.Windows`
    view     as for `ImageFiles`; without `errors`, "skip" for folders of up to `CHECKED` files, else "defer"

    Raises ValueError for what is none of these, for a folder that holds images beside archives of them, and where
    images or labels are missing.
    """
    files = _files(os.path.expanduser(name), split, labels, window)
    if len(files) > CHECKED:
        view = {**view, "errors": view.get("errors") or "defer"}
    return ImageFiles(files, size, **view)


def ImageFolder(
    path: str | Path, size: int, *, labels: str | Path | None = None, **view: Unpack[FileView]
) -> ImageFiles:
    """The images of a folder: one sub-folder per class, or all in one place, which makes one class.

    Files are PNG, JPEG, WebP, TIFF and others (`file_names.SUFFIXES`), in the order of their names. `labels` as for
    `FolderFiles`, `view` as for `ImageFiles`.
    """
    return ImageFiles(FolderFiles(path, labels), size, **view)


def _files(name: str, split: str, labels: str | None, window: int | None) -> Files:
    """The files behind a name, which go before what a pattern could mean.

    Raises ValueError for an address of no tars, and for a window where any image is read as fast as another.
    """
    folder = Path(name)
    archives = _archives(folder) if folder.is_dir() and not is_saved(folder) else None
    if not name.startswith(PREFIX):
        if is_tar(name) or archives == "tar":
            return TarFiles(name, labels=labels, window=window)
        if is_address(name):
            raise ValueError(f"{name} is no address of tar shards; give those, or fetch it and give its path")
        if archives == "parquet" or (name.lower().endswith(".parquet") and not folder.is_dir()):
            return ParquetFiles(name, labels=labels, window=window)
    if window is not None:
        raise ValueError(f"a window is of tar shards or of parquet's row groups; leave it out for {name}")
    if name.startswith(PREFIX):
        return hub_files(name, split, labels=labels)
    return saved_files(name, labels=labels) if is_saved(folder) else FolderFiles(name, labels)


def _archives(folder: Path) -> str | None:
    """The kind of archives that a folder holds: tar, parquet, or None where it holds images, if any.

    Raises ValueError where it holds two of these.
    """
    found = {kind: archives_in(folder, f".{kind}") for kind in ("tar", "parquet")}
    found = {kind: paths for kind, paths in found.items() if paths}
    pictured = _pictured(folder) if found else []
    if pictured and "tar" not in found and not any(map(holds_images, found["parquet"])):
        return None  # what lies there tells something of the images
    kind = next(iter(found), None)
    if kind and (pictured or len(found) > 1):
        within = {kind: [str(path.relative_to(folder)) for path in paths] for kind, paths in found.items()}
        beside = [f"images ({some(pictured)})"] if pictured else []
        beside += [f"{kind} files ({some(paths)})" for kind, paths in within.items()]
        raise ValueError(
            f"{folder} holds {' beside '.join(beside)}, and only one kind can be meant; move the other elsewhere, or "
            f"give '{found[kind][0].parent / '*'}.{kind}' for those"
        )
    return kind


def is_tar(name: str) -> bool:
    """Tell whether a name is of tar shards: a path, a pattern or an address."""
    last = (expanded(name) or [name])[-1]
    last = last.partition("?")[0] if is_address(name) else last
    return last.lower().endswith(".tar") and not Path(name).is_dir()


def _pictured(folder: Path) -> list[str]:
    """The images that lie in a folder, and its folders that hold some."""
    found = []
    for entry in sorted(folder.iterdir()):
        if is_hidden(entry.name):
            continue
        below = entry.rglob("*") if entry.is_dir() else [entry]
        if any(path.name.lower().endswith(SUFFIXES) and not is_hidden(path.name) for path in below):
            found.append(entry.name)
    return found
