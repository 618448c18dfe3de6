"""From what was typed to images, caches of them, and a device."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from robustok.cli.arguments import DRAWN, GRID, SAMPLES, Reading, View
from robustok.data.fluent import EMBEDDED
from robustok.data.image_files import BrokenFileError, Errors
from robustok.data.images import ImageSet
from robustok.data.latent_cache import LatentCache
from robustok.data.npz import NpzImages
from robustok.data.shards import MANIFEST
from robustok.data.sources import open_images
from robustok.evaluation.features.image_source import ImageSource
from robustok.runtime.npz import array_names
from robustok.tokenizer.protocol import TokenizerLike, kind_of

ERRORS: dict[str, Errors] = {"skip": "skip", "fail": "defer", "replace": "replace"}  # what --broken says
SIZE, SIZES = 256, {"fashion-mnist": 32, "fluent": 64}  # side in pixels, where neither a tokenizer nor the user decides

STATISTICS = (".safetensors", ".pt", ".pth")  # ends of the names of files of statistics


def images_of(
    name: str, size: int, view: View | None = None, *, split: Literal["train", "validation"] = "train"
) -> ImageSet:
    """An embedded set, or the one of a name, see `open_images`, which is read as `view` says."""
    view = view or View()
    if name in EMBEDDED:
        return EMBEDDED[name](split, size)
    return open_images(
        name,
        size,
        split=split,
        labels=view.labels,
        window=view.window,
        errors=None if view.broken is None else ERRORS[view.broken],
        upscale=view.upscale,
        flip=not view.no_flip,
        workers=view.workers,
    )


def scored_images(
    name: str, size: int | None, view: View, *, split: Literal["train", "validation"] = "validation"
) -> ImageSource:
    """Images to score: those of an npz file as they are, others at `size` (None: their own, that of the first)."""
    if not is_npz(name):
        _check_no_grid(Path(name))
        return images_of(name, size or own_size(name, view.broken), view, split=split)
    images = NpzImages(name)
    if size not in (None, images.size):
        raise ValueError(
            f"the images in {name} are {images.size} pixels and not {size}; those of an npz are not resized"
        )
    return images


def _check_no_grid(folder: Path) -> None:
    """Refuse, by a ValueError, a folder that sample wrote, in which the grid would be taken for an image."""
    if (folder / SAMPLES).is_file() and (folder / GRID).is_file():
        drawn = f" or {folder / DRAWN}" if (folder / DRAWN).is_dir() else ""
        raise ValueError(f"{folder} is what sample wrote, a grid among it; give its images, {folder / SAMPLES}{drawn}")


def own_size(name: str, broken: str | None = None) -> int:
    """The side in pixels that images have: the shorter one of a set's first image, or of its first whole one."""
    if name in EMBEDDED:
        return SIZES[name]
    if is_npz(name):
        return NpzImages(name).size
    try:
        return open_images(name, 1, split="validation", labels="none", errors="defer").side
    except BrokenFileError:
        if broken == "fail":
            raise
    return open_images(name, 1, split="validation", labels="none", errors="skip").side


def check_outside(out: Path, options: object, *names: str, what: str = "--out") -> None:
    """Refuse, by a ValueError, to write into a folder of images that an option of one of the names gives.

    What is written there would be among the images of the next run, which then could not go on.
    """
    for name in names:
        given = getattr(options, name, None)
        if given is not None and Path(given).is_dir() and out.resolve().is_relative_to(Path(given).resolve()):
            raise ValueError(
                f"{what} {out} lies in --{name} {given}, so what is written would be taken for images; give another"
            )


def check_reading(options: Reading, *names: str | None, beside: Iterable[str | None] = ()) -> None:
    """Refuse, by a ValueError, options of how images are read where all images are taken as they are.

    Those are embedded sets, npz files, statistics, and what a cache holds, which has no name here. Of images `beside`
    those of the names only --upscale and --broken are heeded.
    """
    for parts, heeding in (
        (("labels", "no_flip", "window"), names),
        (("upscale", "broken"), (*names, *beside)),
    ):
        given = [f"--{part.replace('_', '-')}" for part in parts if getattr(options, part, None)]
        there = list(dict.fromkeys(name for name in heeding if name is not None))
        if given and all(map(_as_it_is, there)):
            what = f"{' and '.join(there) or 'a cache'} {'are' if len(there) > 1 else 'is'}"
            raise ValueError(f"{what} taken without {' and '.join(given)}; leave that out")


def _as_it_is(name: str) -> bool:
    return name in EMBEDDED or (name.endswith((".npz", *STATISTICS)) and not Path(name).is_dir())


def is_npz(name: str) -> bool:
    return name.endswith(".npz") and not Path(name).is_dir()


def is_statistics(name: str) -> bool:
    """True for a file of statistics rather than images. Raises ValueError for an npz file that cannot be read."""
    if Path(name).is_dir():
        return False
    return name.endswith(STATISTICS) or (is_npz(name) and "mu" in array_names(Path(name)))


def cache_at(folder: Path, tokenizer: TokenizerLike) -> LatentCache:
    """The cache that `encode` or `train-generator` left in a folder. Raises ValueError where there is none of its."""
    kind = kind_of(tokenizer)
    place = folder if (folder / MANIFEST).is_file() else folder / kind
    if not (place / MANIFEST).is_file():
        raise ValueError(f"there is no cache of {kind} in {folder}; make one with robustok encode --out {folder}")
    return LatentCache(place, tokenizer)


def device_of(name: str | None) -> torch.device:
    """The device of a name, or the best there is. Raises ValueError for one that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {name!r} here; choose cpu, or see robustok doctor") from error
    if device.type == "meta":
        raise ValueError("the device meta computes nothing; choose cpu, or see robustok doctor")
    return device
