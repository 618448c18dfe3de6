"""Images from wherever they are, by one name: a folder, tar shards, parquet files, a Hugging Face dataset."""

from pathlib import Path

from robustok.data.downloads import is_address
from robustok.data.folder import FolderFiles
from robustok.data.hub import PREFIX, hub_files, is_saved, saved_files
from robustok.data.parquet import ParquetFiles
from robustok.data.pictures import Errors, Files, Pictures
from robustok.data.tars import TarFiles, expanded

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

    The rest is as for `pictures.Pictures`.
    """
    files = _files(str(name), split, labels, window)
    if errors is None:
        errors = "skip" if isinstance(files, FolderFiles) and len(files) <= CHECKED else "defer"
    return Pictures(files, size, errors=errors, upscale=upscale, flip=flip, draft=draft, workers=workers)


def _files(name: str, split: str, labels: str | None, window: int | None) -> Files:
    """The files behind a name. Raises ValueError for a window where any image is read as fast as another."""
    folder = Path(name)
    if is_tar(name):
        return TarFiles(name, labels=labels, window=window)
    if name.endswith(".parquet") or (folder.is_dir() and _holds(folder, "parquet")):
        return ParquetFiles(name, labels=labels, window=window)
    if window is not None:
        raise ValueError(f"a window is of tar shards or of parquet's row groups; leave it out for {name}")
    if name.startswith(PREFIX):
        return hub_files(name, split, labels=labels)
    if is_saved(folder):
        return saved_files(folder, labels=labels)
    return FolderFiles(name, labels)


def is_tar(name: str) -> bool:
    """Whether a name is of tar shards: a path, a pattern, an address, or a folder of them."""
    last = expanded(name)[-1].partition("?")[0] if is_address(name) else expanded(name)[-1]
    return last.endswith(".tar") or (Path(name).is_dir() and _holds(Path(name), "tar"))


def _holds(folder: Path, suffix: str) -> bool:
    """Whether files of this kind lie in a folder, or in `data` below it as in the hub's repositories."""
    return any(next(place.glob(f"*.{suffix}"), None) is not None for place in (folder, folder / "data"))
