"""Images from wherever they are, by one name: a folder, tar shards, parquet files, a Hugging Face dataset."""

from pathlib import Path
from typing import Literal, Unpack

from robustok.data.downloads import is_address
from robustok.data.file_names import SUFFIXES, archives_in, expanded, is_hidden, some
from robustok.data.folder import FolderFiles
from robustok.data.image_files import Files, ImageFiles, View
from robustok.data.tables import PREFIX, ParquetFiles, holds_images, hub_files, is_saved, saved_files
from robustok.data.tars import TarFiles

CHECKED = 20_000  # files of a folder that are all decoded once in advance, at most, unless errors say so


def open_images(
    name: str | Path,
    size: int,
    *,
    split: str = "train",
    labels: str | None = None,
    window: int | None = None,
    **view: Unpack[View],
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
    files = _files(str(name), split, labels, window)
    few = isinstance(files, FolderFiles) and len(files) <= CHECKED
    return ImageFiles(files, size, **(view if few else _deferred(view)))


def ImageFolder(path: str | Path, size: int, *, labels: str | Path | None = None, **view: Unpack[View]) -> ImageFiles:
    """The images of a folder: one sub-folder per class, or all in one place, which makes one class.

    Files are PNG, JPEG, WebP, TIFF and others (`file_names.SUFFIXES`), in the order of their names. `labels` as for
    `FolderFiles`, `view` as for `ImageFiles`.
    """
    return ImageFiles(FolderFiles(path, labels), size, **view)


def TarImages(
    pattern: str | Path, size: int, *, labels: str | None = None, window: int | None = None, **view: Unpack[View]
) -> ImageFiles:
    """The images of tar shards. `labels` and `window` as for `TarFiles`, `view` as for `open_images`."""
    return ImageFiles(TarFiles(pattern, labels=labels, window=window), size, **_deferred(view))


def ParquetImages(
    path: str | Path, size: int, *, labels: str | None = None, window: int | None = None, **view: Unpack[View]
) -> ImageFiles:
    """The images of parquet files. `labels` and `window` as for `ParquetFiles`, `view` as for `open_images`."""
    return ImageFiles(ParquetFiles(path, labels=labels, window=window), size, **_deferred(view))


def HubImages(
    name: str | Path, size: int, *, split: str = "train", labels: str | None = None, **view: Unpack[View]
) -> ImageFiles:
    """A Hugging Face dataset: `hf:owner/name[:split]`, or a folder of `Dataset.save_to_disk`.

    `labels` is the column of labels, "none", or None for a usual one; `view` as for `open_images`.
    """
    named = str(name).startswith(PREFIX)
    files = hub_files(str(name), split, labels=labels) if named else saved_files(name, labels=labels)
    return ImageFiles(files, size, **_deferred(view))


def _deferred(view: View) -> View:
    """A view whose images are not all decoded in advance, unless `errors` says so."""
    return {**view, "errors": view.get("errors") or "defer"}


def _files(name: str, split: str, labels: str | None, window: int | None) -> Files:
    """The files behind a name. Raises ValueError for a window where any image is read as fast as another."""
    match _kind(name):
        case "tar":
            return TarFiles(name, labels=labels, window=window)
        case "parquet":
            return ParquetFiles(name, labels=labels, window=window)
        case _ if window is not None:
            raise ValueError(f"a window is of tar shards or of parquet's row groups; leave it out for {name}")
        case "hub":
            return hub_files(name, split, labels=labels)
        case "saved":
            return saved_files(name, labels=labels)
    return FolderFiles(name, labels)


def _kind(name: str) -> Literal["tar", "parquet", "hub", "saved", "folder"]:
    """The kind of a name; files go before what a pattern could mean. Raises ValueError for two kinds in a folder."""
    folder = Path(name)
    if name.startswith(PREFIX):
        return "hub"
    if is_tar(name):
        return "tar"
    if is_address(name):
        raise ValueError(f"{name} is no address of tar shards; give those, or fetch it and give its path")
    if not folder.is_dir():
        return "parquet" if name.lower().endswith(".parquet") else "folder"
    if is_saved(folder):
        return "saved"
    archives = {kind: archives_in(folder, f".{kind}") for kind in ("tar", "parquet")}
    if not any(archives.values()):
        return "folder"
    pictured = _pictured(folder)
    if pictured and not archives["tar"] and not any(map(holds_images, archives["parquet"])):
        return "folder"  # what lies there tells something of the images
    found = {kind: [path.relative_to(folder) for path in paths] for kind, paths in archives.items() if paths}
    if pictured or len(found) > 1:
        beside = [f"images ({some(pictured)})"] if pictured else []
        beside += [f"{kind} files ({some(list(map(str, paths)))})" for kind, paths in found.items()]
        kind, paths = next(iter(found.items()))
        raise ValueError(
            f"{folder} holds {' beside '.join(beside)}, and only one kind can be meant; move the other elsewhere, or "
            f"give '{folder / paths[0].parent / '*'}.{kind}' for those"
        )
    return "tar" if archives["tar"] else "parquet"


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
