"""Detail: how much power images have at each spatial frequency, beside real ones."""

from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Pixels

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
OCTAVES = 3  # bands from the finest on; what is coarser is the last band
EPSILON = 1e-12  # of the square of the pixel range: far below the rounding of uint8, which has 1.3e-6


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
