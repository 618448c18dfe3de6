import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from robustok.evaluation.metrics.pixelwise import psnr, ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def flat(value: int, b: int = 1) -> torch.Tensor:
    return torch.full((b, 3, 16, 16), value, dtype=torch.uint8)


def test_psnr_of_an_error_of_one_level():
    assert psnr(flat(100), flat(101)).item() == pytest.approx(20 * math.log10(255))
    assert psnr(flat(0), flat(255)).item() == pytest.approx(0, abs=1e-12)


def test_psnr_is_of_each_image():
    one, other = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)
    separately = torch.cat([psnr(a[None], b[None]) for a, b in zip(one, other, strict=True)])
    torch.testing.assert_close(psnr(one, other), separately, rtol=1e-12, atol=0)
    assert psnr(one, one).isposinf().all()


def test_ssim_of_flat_images():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 80 * 120 + c1) / (80**2 + 120**2 + c1)
    assert ssim(flat(80), flat(120)).item() == pytest.approx(expected, rel=1e-5)


def test_ssim_of_equal_and_inverted_images():
    image = noise(2, 3, 24, 20)
    torch.testing.assert_close(ssim(image, image), torch.ones(2, dtype=torch.float64))
    assert (ssim(255 - image, image) < -0.5).all()


def test_ssim_agrees_with_scipys_gaussian():
    x, y = noise(1, 3, 24, 30), noise(1, 3, 24, 30, seed=1)
    y = (0.7 * x.double() + 0.3 * y.double()).round().to(torch.uint8)

    def blur(z):  # truncated to 11 taps, cut to where the window lies inside
        return gaussian_filter(z, 1.5, truncate=5 / 1.5, axes=(1, 2))[:, 5:-5, 5:-5]

    a, b = x[0].double().numpy(), y[0].double().numpy()
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    maps = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim(x, y).item() == pytest.approx(float(np.mean(maps)), rel=1e-5)


def test_refuses_images_that_are_no_pairs(unchecked):
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) cannot be compared pixel by pixel with \(2, 3, 16, 16\)"):
        psnr(flat(0), flat(0, b=2))
    with pytest.raises(ValueError, match="window of 11 x 11 pixels .* 8 x 8; use PSNR"):
        ssim(noise(1, 3, 8, 8), noise(1, 3, 8, 8))
