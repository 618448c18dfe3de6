"""VIV, against what it is the integral of, and against closed forms."""

import math

import pytest
import torch
from latent_spread import mean_root_eigenvalue, velocity_irreducible_variance
from scipy.integrate import quad


def drawn(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_closed_form_is_what_a_noised_number_leaves_open_of_its_velocity():
    """Of x of variance l and e of variance 1: the variance of e - x given (1 - t) x + t e, over all t."""
    for own in (0.2, 1.0, 3.0):

        def left_open(t: float, own: float = own) -> float:
            seen, shared = (1 - t) ** 2 * own + t**2, t - (1 - t) * own
            return own + 1 - shared**2 / seen

        assert quad(left_open, 0, 1)[0] == pytest.approx(math.pi / 2 * math.sqrt(own))


def test_eigenvalues_of_a_kronecker_product_are_products():
    places, channels = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([1.0, 4.0, 9.0]).double()
    roots = torch.linalg.eigvalsh(places).sqrt()
    latents = torch.linalg.cholesky(places) @ drawn(200_000, 2, 3) * channels.sqrt()
    wanted = float(roots.mean() * channels.sqrt().mean())
    assert mean_root_eigenvalue(latents) == pytest.approx(wanted, rel=0.005)
    assert mean_root_eigenvalue(latents + 7) == pytest.approx(mean_root_eigenvalue(latents))


def test_classes_that_say_much_leave_little_open():
    noise, labels = drawn(20_000, 4, 3), torch.arange(20_000) % 2
    assert velocity_irreducible_variance(noise, labels) == pytest.approx(math.pi / 2, rel=0.02)
    apart = noise + 3 * (2 * labels - 1)[:, None, None]  # the spread of all is 1 + 9, within a class 1
    assert velocity_irreducible_variance(apart, labels) == pytest.approx(math.pi / 2 / math.sqrt(10), rel=0.02)
    alike = torch.zeros_like(labels)
    assert velocity_irreducible_variance(apart, alike) > 1.5 * velocity_irreducible_variance(apart, labels)


def test_the_scale_of_a_channel_does_not_matter_and_one_that_never_changes_leaves_nothing_open():
    latents, labels = drawn(300, 4, 3), torch.arange(300) % 3
    value = velocity_irreducible_variance(latents, labels)
    scaled = latents * torch.tensor([1.0, 50.0, 0.1]) + 5
    assert velocity_irreducible_variance(scaled, labels) == pytest.approx(value)
    constant = torch.cat([latents, torch.ones(300, 4, 1)], dim=2)
    assert velocity_irreducible_variance(constant, labels) == pytest.approx(value * 3 / 4)


def test_a_class_of_one_image_is_refused():
    with pytest.raises(ValueError, match="class 1 has one image"):
        velocity_irreducible_variance(drawn(3, 4, 2), torch.tensor([0, 0, 1]))
