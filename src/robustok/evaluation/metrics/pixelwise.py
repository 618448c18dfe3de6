"""Pixel by pixel: how close a reconstruction is to its image."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Pixels

WINDOW, SIGMA = 11, 1.5  # of the Gaussian that SSIM looks through, in pixels
K1, K2, RANGE = 0.01, 0.03, 255  # SSIM's constants and the range of a pixel value


def psnr(generated: Pixels, real: Pixels) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in dB, float64: 10 log10(255^2 / mean squared error).

    Infinite where an image is reproduced exactly.
    """
    _check_pair(generated, real)
    error = (generated.double() - real.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(RANGE**2 / error)


def ssim(generated: Pixels, real: Pixels) -> Float[Tensor, " b"]:
    """Structural similarity of each image, 1 where equal (Wang et al. 2004, eq. 13), mean over channels.

    As in that paper: a Gaussian window of 11 x 11 pixels with sigma 1.5, only where it lies wholly inside.
    Raises ValueError for images smaller than the window.
    """
    _check_pair(generated, real)
    if min(real.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM looks through a window of {WINDOW} x {WINDOW} pixels and cannot score images of "
            f"{real.shape[-2]} x {real.shape[-1]}; use PSNR for them"
        )
    # Centered first: the variances below are differences of squares, which float32 rounds.
    x, y = (pixels.float() - RANGE / 2 for pixels in (generated, real))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (_blur(z) for z in (x, y, x * x, y * y, x * y))
    variance = mean_xx - mean_x**2 + mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x + RANGE / 2, mean_y + RANGE / 2
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance + c2)
    return (luminance * structure).double().mean(dim=(1, 2, 3))


def _blur(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Gaussian means, separably, where the window lies inside."""
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    kernel = torch.tensor(weights, dtype=x.dtype, device=x.device) / sum(weights)
    planes = x.flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*x.shape[:2], *planes.shape[-2:])


def _check_pair(generated: Pixels, real: Pixels) -> None:
    if generated.shape != real.shape:
        raise ValueError(
            f"images of shape {tuple(generated.shape)} cannot be compared pixel by pixel with "
            f"{tuple(real.shape)}; give each image beside its own reconstruction, at the same size"
        )
