"""From what was typed to images and a device."""

from pathlib import Path
from typing import Literal

import torch

from robustok.data import decoding
from robustok.data.folder import ImageFolder
from robustok.data.images import FashionMNIST, ImageSet
from robustok.data.npz import NpzImages
from robustok.data.tars import TarImages
from robustok.evaluation.reference import ImageSource
from robustok.runtime.npz import array_names

EMBEDDED = "fashion-mnist"
SIZE, EMBEDDED_SIZE = 256, 32  # side in pixels, where neither a tokenizer nor the user decides it


def images_of(
    name: str,
    size: int,
    *,
    split: Literal["train", "validation"] = "train",
    upscale: bool = False,
    flip: bool = True,
) -> ImageSet:
    """The embedded set, or that of a folder. `split` is of the embedded set, `upscale` and `flip` are of a folder."""
    if name == EMBEDDED:
        return FashionMNIST(split, size)
    try:
        return ImageFolder(name, size, upscale=upscale, flip=flip)
    except ValueError as error:
        raise ValueError(str(error).replace("pass upscale=True", "add --upscale")) from error


def scored_images(name: str, size: int | None, *, upscale: bool = False) -> ImageSource:
    """Images to score: those of an npz file as they are, others at `size` (None: their own, that of the first)."""
    if is_tar(name):
        try:
            return TarImages(name, size or own_size(name), upscale=upscale)
        except ValueError as error:
            raise ValueError(str(error).replace("pass upscale=True", "add --upscale")) from error
    if not is_npz(name):
        return images_of(name, size or own_size(name), split="validation", upscale=upscale)
    images = NpzImages(name)
    if size not in (None, images.size):
        raise ValueError(
            f"the images in {name} are {images.size} pixels and not {size}; those of an npz are not resized"
        )
    return images


def own_size(name: str) -> int:
    """The side in pixels that images have: the shorter one of a folder's first image."""
    if name == EMBEDDED:
        return EMBEDDED_SIZE
    if is_npz(name):
        return NpzImages(name).size
    if is_tar(name):
        return TarImages(name, 1).side
    return min(decoding.read(ImageFolder(name, 1, errors="defer").source.file(0)).size)


def size_of(name: str) -> int:
    """The usual side of these images in pixels."""
    return EMBEDDED_SIZE if name == EMBEDDED else SIZE


def is_tar(name: str) -> bool:
    return name.endswith(".tar")


def is_npz(name: str) -> bool:
    return name.endswith(".npz")


def is_statistics(name: str) -> bool:
    """Whether a file holds statistics rather than images. Raises ValueError for an npz file that cannot be read."""
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
