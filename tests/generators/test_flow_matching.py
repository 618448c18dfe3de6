"""Interpolants against their definition, the velocity of one read along another, times, and losses."""

import math
from dataclasses import asdict

import pytest
import torch
from tests.generators.mixture import MIXTURE
from tests.unchecked import check
from torch import Generator, Tensor

from robustok.generators.flow_matching import (
    TrainingTimes,
    along,
    coefficients,
    draw_times,
    endpoints,
    flow_losses,
    loss_weights,
    noise_levels,
    noised,
    shifted,
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
        ({"distribution": "normal"}, "distribution is 'normal'; choose from 'uniform', 'logit-normal'"),
        ({"std": -1.0}, "std is -1.0 and shift 1.0; choose at least 0, and above 0"),
        ({"std": math.nan}, "std is nan and shift 1.0; choose at least 0, and above 0"),
        ({"shift": 0.0}, "std is 1.0 and shift 0.0; choose at least 0, and above 0"),
        ({"mean": math.inf}, "mean is inf; it is that of a logit, choose a finite number"),
        ({"weighting": "snr"}, "weighting is 'snr'; choose from 'none', 'min-snr'"),
        ({"gamma": 0.0}, "gamma is 0.0; it is a ratio of powers, choose one above 0, such as 5"),
    ],
)
def test_wrong_times_say_so(fields, message):
    values = asdict(TrainingTimes()) | fields
    with pytest.raises(ValueError, match=message):
        check(TrainingTimes, values)


@pytest.mark.parametrize("t", [[-0.1, 0.5], [0.5, 1.01], [math.nan, 0.5], [0.0, 500.0]])
def test_what_is_no_noise_level_is_refused(t):
    x, t = random(2, 1, 2), torch.tensor(t)
    message = r"t goes from .* to .*; noise levels are between 0, the data, and 1, pure noise, so divide diffusion's"
    with pytest.raises(ValueError, match=message):
        noised(x, x, t)
    with pytest.raises(ValueError, match=message):
        flow_losses(lambda x, t: x, x, x, t)
    ends = torch.tensor([0.0, 1.0])
    assert noise_levels(ends) is ends


@BOTH
@pytest.mark.parametrize("gamma", [1e-6, 5.0, 1e6])
def test_min_snr_weighs_the_error_of_the_data_by_the_capped_signal_to_noise_ratio(interpolant, gamma):
    """Whatever a field says: the data and the noise that it implies tell their own errors."""
    latents, noise, t = (
        random(6, 3, 2).double(),
        random(6, 3, 2, seed=1).double(),
        torch.linspace(0.05, 0.95, 6).double(),
    )
    at, wrong = coefficients(t, interpolant), random(6, 3, 2, seed=2).double()
    x = noised(latents, noise, t, interpolant)
    data, e = endpoints(x, wrong, at)
    errors = [(a - b).square().mean(dim=(1, 2)) for a, b in ((data, latents), (e, noise))]
    weights = loss_weights(t, TrainingTimes(weighting="min-snr", gamma=gamma), interpolant)
    weighed = weights * flow_losses(lambda x, t: wrong, latents, noise, t, interpolant).error
    snr = (at.data / at.noise).flatten().square()
    torch.testing.assert_close(weighed, snr.clamp(max=gamma) * errors[0])
    if gamma == 1e6:  # nothing is capped, which is the plain error of the noise (Ho et al. 2020)
        torch.testing.assert_close(weighed, errors[1])
    if gamma == 1e-6:  # all is capped, which is the plain error of the data
        torch.testing.assert_close(weighed, gamma * errors[0])


def test_min_snr_of_v_prediction_is_the_published_one_and_no_weighting_is_none():
    """min(SNR, gamma) / (SNR + 1) for v = da - ds of a variance-preserving path; ours is pi / 2 v."""
    t = torch.linspace(0.01, 0.99, 20).double()
    weights = loss_weights(t, TrainingTimes(weighting="min-snr", gamma=5.0), "cosine")
    snr = (math.pi / 2 * t).tan() ** -2
    torch.testing.assert_close(weights * (math.pi / 2) ** 2, snr.clamp(max=5) / (snr + 1))
    linear = loss_weights(t, TrainingTimes(weighting="min-snr", gamma=5.0), "linear")
    torch.testing.assert_close(linear, torch.minimum((1 - t) ** 2, 5 * t**2))
    ends = loss_weights(torch.tensor([0.0, 1.0]), TrainingTimes(weighting="min-snr"), "linear")
    assert ends.tolist() == [0, 0]
    assert torch.equal(loss_weights(t, TrainingTimes(), "cosine"), torch.ones_like(t))


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
