"""Differentiable augmentation: hand-made draws, random draws, gradients."""

import pytest
import torch
from torch import Generator, Tensor

from robustok.losses.augmentation import Augmentation, Changes, augment, draw_changes

NOTHING = Changes(*torch.zeros(8, 1))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed)) * 2 - 1


def only(**changes: float) -> Changes:
    return NOTHING._replace(**{name: torch.tensor([value]) for name, value in changes.items()})


def test_brightness_saturation_and_contrast_by_hand():
    image = noise(1, 3, 4, 4)
    gray, mean = image.mean(dim=1, keepdim=True), image.mean()
    torch.testing.assert_close(augment(image, only(brightness=0.3)), image + 0.3)
    torch.testing.assert_close(augment(image, only(saturation=-1.0)), gray.expand(1, 3, 4, 4))
    torch.testing.assert_close(augment(image, only(saturation=1.0)), 2 * image - gray)
    torch.testing.assert_close(augment(image, only(contrast=-0.5)), (image + mean) / 2)


def test_a_shift_moves_whole_pixels_and_lets_zeros_in():
    image = noise(1, 3, 8, 8)
    moved = augment(image, only(down=0.25, right=-0.125))  # 2 pixels down, 1 to the left
    assert torch.equal(moved[..., 2:, :-1], image[..., :-2, 1:])
    assert moved[..., :2, :].abs().max() == 0
    assert moved[..., -1].abs().max() == 0


def test_a_hole_is_cut_around_its_center():
    image = torch.ones(1, 3, 8, 8)
    wanted = torch.ones(8, 8)
    wanted[2:6, 4:8] = 0
    assert torch.equal(augment(image, only(hole=0.5, hole_down=0.5, hole_right=0.75))[0, 0], wanted)
    wanted = torch.ones(8, 8)
    wanted[:2, :2] = 0  # three quarters of it hang over the border
    assert torch.equal(augment(image, only(hole=0.5, hole_down=0.0, hole_right=0.0))[0, 0], wanted)


@pytest.mark.parametrize(
    "config", [Augmentation(probability=0.0), Augmentation(color=0.0, translation=0.0, cutout=0.0)]
)
def test_nothing_happens_at_probability_or_strength_zero(config: Augmentation):
    images = noise(16, 3, 32, 32)
    assert torch.equal(augment(images, draw_changes(config, 16, generator=seeded())), images)


def test_probability_is_the_share_of_images_that_change():
    config = Augmentation(probability=0.25, translation=0.0, cutout=0.0)
    images = noise(4000, 3, 2, 2)
    changed = (augment(images, draw_changes(config, 4000, generator=seeded())) != images).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_draws_fill_the_stated_ranges():
    changes = draw_changes(Augmentation(), 4000, generator=seeded())
    for name, low, high in [
        ("brightness", -0.5, 0.5),
        ("saturation", -1.0, 1.0),
        ("contrast", -0.5, 0.5),
        ("down", -0.125, 0.125),
        ("right", -0.125, 0.125),
        ("hole_down", 0.0, 1.0),
        ("hole_right", 0.0, 1.0),
    ]:
        values = getattr(changes, name)
        assert values.min().item() == pytest.approx(low, abs=0.01 * (high - low)), name
        assert values.max().item() == pytest.approx(high, abs=0.01 * (high - low)), name
        assert low <= values.min() <= values.max() <= high, name
    assert (changes.hole == 0.5).all()


def test_the_same_draw_changes_real_and_fake_alike():
    real, fake = noise(8, 3, 16, 16), noise(8, 3, 16, 16, seed=1)
    changes = draw_changes(
        Augmentation(color=0.0), 8, generator=seeded()
    )  # then what is left is moved and cut, not mixed
    together = augment(torch.cat([real, fake], dim=2), changes._replace(down=torch.zeros(8), hole=torch.zeros(8)))
    assert torch.equal(augment(real, changes) == 0, augment(fake, changes) == 0)
    assert torch.equal(together[:, :, :16], augment(real, changes._replace(down=torch.zeros(8), hole=torch.zeros(8))))


def test_the_generator_alone_decides():
    first = draw_changes(Augmentation(probability=0.5), 8, generator=seeded(3))
    torch.manual_seed(123)
    second = draw_changes(Augmentation(probability=0.5), 8, generator=seeded(3))
    other = draw_changes(Augmentation(probability=0.5), 8, generator=seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_gradient_is_that_of_differences():
    changes = draw_changes(Augmentation(cutout=0.25), 2, generator=seeded())
    images = noise(2, 3, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, changes), images)


def test_gradient_is_zero_exactly_where_the_hole_is():
    images = noise(1, 3, 8, 8).requires_grad_()
    augment(images, only(hole=0.5, hole_down=0.5, hole_right=0.5)).sum().backward()
    wanted = torch.ones(8, 8)
    wanted[2:6, 2:6] = 0
    assert torch.equal(images.grad, wanted.expand(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["probability", "color", "translation", "cutout"])
def test_a_fraction_above_one_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is 1.5; it is a share"):
        Augmentation(**{name: 1.5})
