"""Colors and spectra of images, against closed forms and the accepted implementations, at any batch size."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from robustok.evaluation.metrics.image_statistics import (
    bands,
    color_statistics,
    decibels,
    radial_power,
    to_lab,
    wasserstein,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(red: int, green: int, blue: int) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)


# CIELAB of sRGB primaries under D65 as colorimetry tables print them (e.g. Lindbloom's calculator), to 0.01
@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 0), (97.14, -21.55, 94.48)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_lab_of_pure_colors(rgb, lab):
    found = to_lab(flat(*rgb))[0, :, 0, 0].tolist()
    assert found == pytest.approx(lab, abs=0.03)


def test_gray_has_no_color_and_luminance_below_the_toe_is_linear():
    gray = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 1, 1)
    lab = to_lab(gray)[:, :, 0, 0]
    assert lab[:, 1:].abs().max() < 1e-9
    assert (lab[:, 0].diff() > 0).all()
    assert float(lab[2, 0]) == pytest.approx((29 / 3) ** 3 * 2 / 255 / 12.92)  # L* = 903.3 Y


def test_color_statistics_of_two_tones():
    pixels = torch.cat([flat(0, 0, 0), flat(255, 255, 255)], dim=3)
    assert color_statistics(pixels)[0].tolist() == pytest.approx([50, 0, 0, 50, 0, 0], abs=1e-6)


def test_wasserstein_of_shifted_samples_and_of_unequal_numbers():
    x = normal(200, 2).double()
    assert wasserstein(x, x + torch.tensor([1.5, -0.25])).tolist() == pytest.approx([1.5, 0.25])
    assert wasserstein(x, x.flip(0)).tolist() == pytest.approx([0, 0], abs=1e-15)
    y = normal(77, 2, seed=1).double() * 2
    wanted = [wasserstein_distance(x[:, i], y[:, i]) for i in range(2)]
    assert wasserstein(x, y).tolist() == pytest.approx(wanted)
    assert wasserstein(y, x).tolist() == pytest.approx(wanted)


def test_white_noise_has_its_variance_at_every_frequency():
    noise = torch.randint(256, (300, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    power = radial_power(noise.expand(-1, 3, -1, -1)).mean(dim=0)
    variance = (256**2 - 1) / 12 / 255**2
    assert power.shape == (16,)
    # rings of 8 places and more in 300 images, next ones not independent under the window; the first lacks the mean
    assert power[1:].tolist() == pytest.approx([variance] * 15, rel=0.1)


def test_a_wave_has_its_power_at_its_frequency():
    angle = torch.arange(32) / 32 * 2 * math.pi
    wave = (127.5 + 100 * (6 * angle).cos()).round().to(torch.uint8).expand(1, 3, 32, 32)
    power = radial_power(wave)[0]
    assert int(power.argmax()) == 5  # 6 cycles
    assert float(power[8:].max()) < 1e-4 * float(power[5])


def test_decibels_of_half_the_contrast():
    pixels = torch.randint(256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    full, half = radial_power((pixels // 2 * 2).to(torch.uint8)), radial_power((pixels // 2 + 64).to(torch.uint8))
    assert decibels(half, full).tolist() == pytest.approx([-20 * math.log10(2)] * 8, abs=1e-6)
    assert decibels(full, full).tolist() == [0] * 8


def test_bands_are_octaves():
    assert bands(16) == [slice(0, 4), slice(4, 8), slice(8, 16)]
    assert bands(128) == [slice(0, 32), slice(32, 64), slice(64, 128)]


def test_spectra_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="square images from 8 pixels"):
        radial_power(torch.zeros(1, 3, 16, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="4 x 4; crop"):
        radial_power(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
