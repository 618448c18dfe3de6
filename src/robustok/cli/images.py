"""From what was typed to images and a device."""

from typing import Literal

import torch

from robustok.data.folder import ImageFolder
from robustok.data.images import FashionMNIST, ImageSet

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


def size_of(name: str) -> int:
    """The usual side of these images in pixels."""
    return EMBEDDED_SIZE if name == EMBEDDED else SIZE


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
