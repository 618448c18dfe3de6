"""Statistics of a set of images, image by image: colors as the eye tells them apart, and power spectra."""

from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Pixels

# IEC 61966-2-1: linear sRGB to CIE XYZ; its white is D65. A color is divided by white's X, Y, Z, the rows' sums.
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
DELTA = 6 / 29  # CIE 15: below its cube the cube root goes over into a line
LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
OCTAVES = 3  # bands from the finest on; what is coarser is the last band
EPSILON = 1e-12  # of the square of the pixel range: far below the rounding of uint8, which has 1.3e-6


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
    """Mean L*, a*, b* of each image's pixels, and their standard deviations."""
    lab = to_lab(pixels).flatten(2)
    return torch.cat([lab.mean(dim=2), lab.std(dim=2, correction=0)], dim=1)


def wasserstein(x: Float64[Tensor, "a c"], y: Float64[Tensor, "b c"]) -> Float64[Tensor, " c"]:
    """Wasserstein-1 distance of two samples, column by column: the area between their distribution functions."""
    both, order = torch.cat([x, y]).sort(dim=0)
    from_x = (order < len(x)).double().cumsum(dim=0)
    counted = torch.arange(1, len(both) + 1, device=x.device, dtype=torch.float64)[:, None]
    gap = (from_x / len(x) - (counted - from_x) / len(y)).abs()
    return (gap[:-1] * both.diff(dim=0)).sum(dim=0)


def radial_power(pixels: Pixels) -> Float64[Tensor, "b r"]:
    """Power of each image's luma (0 to 1) at frequencies of 1, 2 ... cycles per image, to half the sampling rate.

    Averaged over the ring of each whole frequency. A Hann window hides that left and right edges do not join. White
    noise has its variance as power everywhere. Raises ValueError for images that are not square, or below 8 pixels.
    """
    side = pixels.shape[-1]
    if pixels.shape[-2] != side or side < 8:
        raise ValueError(
            f"radial spectra are of square images from 8 pixels on, not of {pixels.shape[-2]} x {side}; crop them"
        )
    weights = torch.tensor(LUMA, dtype=torch.float64, device=pixels.device)
    luma = torch.einsum("c,bchw->bhw", weights, pixels.double() / 255)
    hann = torch.hann_window(side, dtype=torch.float64, device=pixels.device)
    window = hann[:, None] * hann
    mean = (luma * window).sum(dim=(1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((luma - mean) * window).abs().square() / window.square().sum()
    frequency = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64, device=pixels.device)
    ring = (frequency[:, None].square() + frequency.square()).sqrt().round().long()
    kept = (ring >= 1) & (ring <= side // 2)
    rings = torch.nn.functional.one_hot(ring[kept] - 1, side // 2).double()
    return power[:, kept] @ (rings / rings.sum(dim=0))


def decibels(spectra: Float64[Tensor, "b r"], real: Float64[Tensor, "b2 r"]) -> Float64[Tensor, " r"]:
    """Mean power against the real images', at each frequency: 0 where equal, -3 where half is missing."""
    return 10 * torch.log10((spectra.mean(dim=0) + EPSILON) / (real.mean(dim=0) + EPSILON))


def bands(frequencies: int) -> list[slice]:
    """Octaves of the frequencies 1 to `frequencies`, as slices of a spectrum, the coarsest first."""
    edges = [0, *(frequencies >> i for i in range(OCTAVES - 1, -1, -1))]
    return [slice(low, high) for low, high in pairwise(edges)]
