"""From what was typed to images and a device."""

from pathlib import Path
from typing import Any, Literal

import torch

from robustok.cli.options import Command
from robustok.data.images import FashionMNIST, ImageSet
from robustok.data.npz import NpzImages
from robustok.data.pictures import BrokenFileError, Errors
from robustok.data.sources import open_images
from robustok.evaluation.reference import ImageSource
from robustok.runtime.npz import array_names

EMBEDDED = "fashion-mnist"
ERRORS: dict[str, Errors] = {"skip": "skip", "fail": "defer", "replace": "replace"}  # what --broken says
SIZE, EMBEDDED_SIZE = 256, 32  # side in pixels, where neither a tokenizer nor the user decides it


def images_of(
    name: str,
    size: int,
    *,
    split: Literal["train", "validation"] = "train",
    upscale: bool = False,
    flip: bool = True,
    labels: str | None = None,
    window: int | None = None,
    broken: str | None = None,
    workers: int | None = None,
) -> ImageSet:
    """The embedded set, or the one of a name, see `open_images`; everything but `split` is of the latter."""
    if name == EMBEDDED:
        return FashionMNIST(split, size)
    errors = None if broken is None else ERRORS[broken]
    return open_images(
        name,
        size,
        split=split,
        labels=labels,
        window=window,
        errors=errors,
        upscale=upscale,
        flip=flip,
        workers=workers,
    )


def view_of(command: Command) -> dict[str, Any]:
    """What was typed of how images are read, as `images_of` takes it."""
    return {
        "upscale": command.upscale,
        "flip": not command.no_flip,
        "labels": command.labels,
        "window": command.window,
        "broken": command.broken,
        "workers": command.workers,
    }


def scored_view(command: Command, *, own_labels: bool = True) -> dict[str, Any]:
    """What was typed of how images are read, for images that are only scored: they need no classes, in any order.

    `own_labels`: what --labels says is of these images, and not of those beside them that a model is trained on.
    """
    labels = command.labels if own_labels else None
    return view_of(command) | {"labels": labels or "none", "window": None}


def scored_images(name: str, size: int | None, **view: Any) -> ImageSource:
    """Images to score: those of an npz file as they are, others at `size` (None: their own, that of the first).

    `view` as for `images_of`.
    """
    if not is_npz(name):
        return images_of(name, size or own_size(name, broken=view.get("broken")), split="validation", **view)
    images = NpzImages(name)
    if size not in (None, images.size):
        raise ValueError(
            f"the images in {name} are {images.size} pixels and not {size}; those of an npz are not resized"
        )
    return images


def own_size(name: str, *, broken: str | None = None) -> int:
    """The side in pixels that images have: the shorter one of a set's first image, or of its first whole one."""
    if name == EMBEDDED:
        return EMBEDDED_SIZE
    if is_npz(name):
        return NpzImages(name).size
    try:
        return open_images(name, 1, split="validation", labels="none", errors="defer").side
    except BrokenFileError:
        if broken == "fail":
            raise
    return open_images(name, 1, split="validation", labels="none", errors="skip").side


def size_of(name: str) -> int:
    """The usual side of these images in pixels."""
    return EMBEDDED_SIZE if name == EMBEDDED else SIZE


def is_npz(name: str) -> bool:
    return name.endswith(".npz") and not Path(name).is_dir()


def is_statistics(name: str) -> bool:
    """Whether a file holds statistics rather than images. Raises ValueError for an npz file that cannot be read."""
    if Path(name).is_dir():
        return False
    return name.endswith((".safetensors", ".pt", ".pth")) or (is_npz(name) and "mu" in array_names(Path(name)))


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
