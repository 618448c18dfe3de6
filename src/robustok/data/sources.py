"""Images from wherever they are, by one name: a folder, tar shards, parquet files, a Hugging Face dataset."""

from pathlib import Path
from typing import Literal

from robustok.data.downloads import is_address
from robustok.data.folder import FolderFiles
from robustok.data.hub import PREFIX, hub_files, is_saved, saved_files
from robustok.data.listing import archives_in, is_hidden
from robustok.data.parquet import ParquetFiles, holds_images
from robustok.data.patterns import expanded
from robustok.data.pictures import SUFFIXES, Errors, Files, Pictures, some
from robustok.data.tars import TarFiles

CHECKED = 20_000  # files of a folder that are all decoded once in advance, at most, unless errors say so


def open_images(
    name: str | Path,
    size: int,
    *,
    split: str = "train",
    labels: str | None = None,
    window: int | None = None,
    errors: Errors | None = None,
    upscale: bool = False,
    flip: bool = True,
    draft: bool = False,
    workers: int | None = None,
) -> Pictures:
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
    errors   None: "skip" for folders of up to `CHECKED` files, else "defer"

    The rest is as for `pictures.Pictures`. Raises ValueError for what is none of these, for a folder that holds images
    beside archives of them, and where images or labels are missing.
    """
    files = _files(str(name), split, labels, window)
    if errors is None:
        errors = "skip" if isinstance(files, FolderFiles) and len(files) <= CHECKED else "defer"
    return Pictures(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)


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
    """What a name is of: what is there goes before what a pattern could mean. Raises ValueError for two in a folder."""
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
    """Whether a name is of tar shards: a path, a pattern or an address."""
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
