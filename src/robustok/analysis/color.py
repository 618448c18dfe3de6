"""Colors as the eye tells them apart: CIELAB statistics of images, and the distance of two sets of them."""

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Pixels

# IEC 61966-2-1: linear sRGB to CIE XYZ; its white is D65. A color is divided by white's X, Y, Z, the rows' sums.
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
DELTA = 6 / 29  # CIE 15: below its cube the cube root goes over into a line
CHANNELS = ("L*", "a*", "b*")


def to_lab(pixels: Pixels) -> Float64[Tensor, "b 3 h w"]:
    """sRGB pixels in CIELAB (CIE 15:2004) for the white D65: L* 0 to 100, a* green to red, b* blue to yellow.

    Gray pixels have a* = b* = 0.
    """
    value = torch.arange(256, dtype=torch.float64, device=pixels.device) / 255
    linear = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)[pixels.long()]
    matrix = torch.tensor(TO_XYZ, dtype=torch.float64, device=pixels.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / matrix.sum(dim=1, keepdim=True), linear)
    f = torch.where(xyz > DELTA**3, xyz.clamp_min(0) ** (1 / 3), xyz / (3 * DELTA**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def color_statistics(pixels: Pixels) -> Float64[Tensor, "b 6"]:
    """Of each image the mean L*, a*, b* of its pixels, and their standard deviations."""
    lab = to_lab(pixels).flatten(2)
    return torch.cat([lab.mean(dim=2), lab.std(dim=2, correction=0)], dim=1)


def wasserstein(x: Float64[Tensor, "a c"], y: Float64[Tensor, "b c"]) -> Float64[Tensor, " c"]:
    """Wasserstein-1 distance of two samples, column by column: the area between their distribution functions."""
    both, order = torch.cat([x, y]).sort(dim=0)
    from_x = (order < len(x)).double().cumsum(dim=0)
    counted = torch.arange(1, len(both) + 1, device=x.device, dtype=torch.float64)[:, None]
    gap = (from_x / len(x) - (counted - from_x) / len(y)).abs()
    return (gap[:-1] * both.diff(dim=0)).sum(dim=0)
