"""Pixel distances against hand-made numbers."""

import pytest
import torch

from robustok.losses.reconstruction import l1, l2


def test_distances_of_constant_images():
    target, output = torch.full((2, 3, 4, 5), 0.5), torch.full((2, 3, 4, 5), -0.25)
    assert l1(target, output).item() == pytest.approx(0.75)
    assert l2(target, output).item() == pytest.approx(0.75**2)


def test_equal_images_are_at_distance_zero():
    images = torch.linspace(-1, 1, 24).view(1, 3, 2, 4)
    assert l1(images, images) == 0
    assert l2(images, images) == 0


def test_gradient_of_l2_is_twice_the_difference_over_the_count():
    target, output = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    l2(target, output).backward()
    assert torch.allclose(output.grad, torch.full((1, 3, 2, 2), 2 * 0.5 / 12))


def test_half_precision_is_averaged_in_float32():
    target, output = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.1).bfloat16()
    assert l1(target, output).dtype == torch.float32
    assert l1(target, output).item() == pytest.approx(output[0, 0, 0, 0].item())
