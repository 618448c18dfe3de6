"""Interpolants against their definition, the velocity of one read along another, times, and losses."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from robustok_mixture import MIXTURE
from torch import Generator, Tensor

from robustok.generators.flow_matching import (
    TrainingTimes,
    along,
    coefficients,
    draw_times,
    endpoints,
    flow_losses,
    noised,
    shifted,
    time_of_ratio,
)

BOTH = pytest.mark.parametrize("interpolant", ["linear", "cosine"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@BOTH
def test_an_interpolant_goes_from_data_to_noise(interpolant):
    latents, noise = random(3, 4, 2), random(3, 4, 2, seed=1)
    torch.testing.assert_close(noised(latents, noise, torch.zeros(3), interpolant), latents)
    torch.testing.assert_close(noised(latents, noise, torch.ones(3), interpolant), noise)
    t, step = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), 1e-6
    at, after, before = (coefficients(x, interpolant) for x in (t, t + step, t - step))
    torch.testing.assert_close(at.d_data, (after.data - before.data) / (2 * step))
    torch.testing.assert_close(at.d_noise, (after.noise - before.noise) / (2 * step))
    torch.testing.assert_close(time_of_ratio(at.noise / at.data, interpolant).flatten(), t)


@BOTH
def test_a_velocity_and_its_place_tell_the_data_and_the_noise(interpolant):
    latents, noise, t = random(4, 3, 2), random(4, 3, 2, seed=1), torch.tensor([0.0, 0.3, 0.8, 1.0])
    at = coefficients(t, interpolant)
    velocity = at.d_data * latents + at.d_noise * noise
    data, e = endpoints(noised(latents, noise, t, interpolant), velocity, at)
    torch.testing.assert_close(data, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(e, noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("given", "wanted"), [("linear", "cosine"), ("cosine", "linear")])
def test_the_field_of_one_interpolant_along_the_other(given, wanted):
    x, t = random(6, 1, 2).double(), torch.tensor([0.0, 1e-3, 0.4, 0.6, 0.999, 1.0], dtype=torch.float64)
    converted = along(lambda x, t: MIXTURE.velocity(x, t, given), given, wanted)
    torch.testing.assert_close(converted(x, t), MIXTURE.velocity(x, t, wanted))
    back = along(converted, wanted, given)
    torch.testing.assert_close(back(x, t), MIXTURE.velocity(x, t, given))


def test_times_are_uniform_or_their_logits_gaussian():
    b = 20_000
    uniform = draw_times(b, TrainingTimes(), generator=Generator().manual_seed(0))
    assert 0 <= uniform.min() < uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 4 / math.sqrt(12 * b)
    config = TrainingTimes(distribution="logit-normal", mean=-0.5, std=0.7)
    logits = draw_times(b, config, generator=Generator().manual_seed(0)).logit()
    assert abs(logits.mean() + 0.5) < 4 * 0.7 / math.sqrt(b)
    assert abs(logits.std() - 0.7) < 4 * 0.7 / math.sqrt(2 * b)
    # a shift by s adds log(s) to the logit
    moved = draw_times(b, TrainingTimes(shift=3.0), generator=Generator().manual_seed(0))
    torch.testing.assert_close(moved, (uniform.logit() + math.log(3)).sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shifted(torch.tensor([0.0, 1.0]), 7.0), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distribution": "normal"}, "distribution is 'normal'; choose 'uniform' or 'logit-normal'"),
        ({"std": -1.0}, "std is -1.0 and shift 1.0; choose at least 0, and above 0"),
        ({"shift": 0.0}, "std is 1.0 and shift 0.0; choose at least 0, and above 0"),
    ],
)
def test_wrong_times_say_so(fields, message):
    values = asdict(TrainingTimes()) | fields
    with pytest.raises(ValueError, match=message):
        TrainingTimes.__post_init__(SimpleNamespace(**values))


@BOTH
def test_losses_of_a_field_that_is_off_by_a_known_amount(interpolant):
    latents, noise, t = random(3, 4, 2), random(3, 4, 2, seed=1), torch.tensor([0.1, 0.5, 0.9])
    at = coefficients(t, interpolant)
    true = at.d_data * latents + at.d_noise * noise
    right = flow_losses(lambda x, t: true, latents, noise, t, interpolant)
    torch.testing.assert_close(right.error, torch.zeros(3))
    torch.testing.assert_close(right.direction, torch.zeros(3))
    off = flow_losses(lambda x, t: true + 2, latents, noise, t, interpolant)
    torch.testing.assert_close(off.error, torch.full((3,), 4.0))
    opposite = flow_losses(lambda x, t: -3 * true, latents, noise, t, interpolant)
    torch.testing.assert_close(opposite.direction, torch.full((3,), 2.0))


@BOTH
def test_no_field_loses_less_than_that_of_the_true_mixture(interpolant):
    b = 4000
    latents, noise = MIXTURE.sample(b, seed=0), random(b, 1, 2, seed=1)
    t = draw_times(b, TrainingTimes(), generator=Generator().manual_seed(2))

    def loss(factor: float) -> Tensor:
        def field(x: Tensor, t: Tensor) -> Tensor:
            return factor * MIXTURE.velocity(x, t, interpolant)

        return flow_losses(field, latents, noise, t, interpolant).error.mean()

    assert loss(1.0) < min(loss(0.95), loss(1.05))
