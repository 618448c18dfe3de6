"""Random weights with the key names and, divided by `narrow`, the widths of published networks."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from robustok.backbones.vgg import CONVS


def by_recipe(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Each tensor from a generator of its own, seeded by its key, in sizes that keep activations near one."""

    def draw(key: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{seed}:{key}".encode())))
        if key.endswith("running_var"):
            return 1 + 0.1 * noise.abs()
        if key.endswith("bn.weight"):
            return 1 + 0.1 * noise
        if len(shape) == 4:
            return noise * (2 / noise[0].numel()) ** 0.5
        return noise / shape[-1] ** 0.5 if len(shape) == 2 else 0.1 * noise

    return {key: draw(key, tuple(shape)) for key, shape in shapes.items()}


INCEPTION = {  # of each convolution: channels out, channels in, rows, columns
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
    **{
        f"Mixed_{block}.branch{name}": shape
        for block, width, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64))
        for name, shape in {
            "1x1": (64, width, 1, 1),
            "5x5_1": (48, width, 1, 1),
            "5x5_2": (64, 48, 5, 5),
            "3x3dbl_1": (64, width, 1, 1),
            "3x3dbl_2": (96, 64, 3, 3),
            "3x3dbl_3": (96, 96, 3, 3),
            "_pool": (pool, width, 1, 1),
        }.items()
    },
    "Mixed_6a.branch3x3": (384, 288, 3, 3),
    "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1),
    "Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3),
    "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
    **{
        f"Mixed_{block}.branch{name}": shape
        for block, w in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192))
        for name, shape in {
            "1x1": (192, 768, 1, 1),
            "7x7_1": (w, 768, 1, 1),
            "7x7_2": (w, w, 1, 7),
            "7x7_3": (192, w, 7, 1),
            "7x7dbl_1": (w, 768, 1, 1),
            "7x7dbl_2": (w, w, 7, 1),
            "7x7dbl_3": (w, w, 1, 7),
            "7x7dbl_4": (w, w, 7, 1),
            "7x7dbl_5": (192, w, 1, 7),
            "_pool": (192, 768, 1, 1),
        }.items()
    },
    "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
    "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
    **{
        f"Mixed_{block}.branch{name}": shape
        for block, width in (("7b", 1280), ("7c", 2048))
        for name, shape in {
            "1x1": (320, width, 1, 1),
            "3x3_1": (384, width, 1, 1),
            "3x3_2a": (384, 384, 1, 3),
            "3x3_2b": (384, 384, 3, 1),
            "3x3dbl_1": (448, width, 1, 1),
            "3x3dbl_2": (384, 448, 3, 3),
            "3x3dbl_3a": (384, 384, 1, 3),
            "3x3dbl_3b": (384, 384, 3, 1),
            "_pool": (192, width, 1, 1),
        }.items()
    },
}


def inception_state(narrow: int = 1) -> dict[str, Tensor]:
    """Every width divided by `narrow`, a divisor of 16."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, width, *kernel) in INCEPTION.items():
        shapes[f"{name}.conv.weight"] = (out // narrow, width if width == 3 else width // narrow, *kernel)
        norms = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{name}.bn.{norm}": (out // narrow,) for norm in norms}
    return by_recipe({**shapes, "fc.weight": (1008, 2048 // narrow), "fc.bias": (1008,)})


def vgg_state(widths: tuple[int, ...] = (64, 128, 256, 512, 512)) -> dict[str, Tensor]:
    """VGG-16 with other widths of its five stages."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for width, numbers in zip(widths, CONVS, strict=True):
        for i in numbers:
            shapes |= {f"features.{i}.weight": (width, before, 3, 3), f"features.{i}.bias": (width,)}
            before = width
    return by_recipe(shapes)
