"""Samplers on a mixture of Gaussians with known velocity and on an ODE with known solution; seeds, SDEdit, refusals."""

import math
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.generators.mixture import MIXTURE, Mixture, MixtureGenerator
from tests.unchecked import check
from torch import Generator, Tensor

from robustok.generators import flow
from robustok.generators.flow import FlowSampling, guided_field, integrate, time_grid
from robustok.generators.flow_matching import TrainingTimes, coefficients, draw_times, flow_losses, noised
from robustok.generators.noise import noise_stream

GENERATOR = MixtureGenerator(MIXTURE)
NOBODY = GENERATOR.null_class
sample_latents = partial(flow.sample_latents, null_class=True)
predict_latents = partial(sample_latents, one_pass=True)


def labels(count: int, label: int = NOBODY) -> Tensor:
    return torch.full((count,), label)


def assert_from_mixture(samples: Tensor, mixture: Mixture = MIXTURE, slack: float = 0.0) -> None:
    """Equal parts around the means, each as wide as it should be, up to 4 standard errors and `slack`."""
    x = samples[:, 0]
    nearest = torch.cdist(x, mixture.means).argmin(dim=1)
    for i, mean in enumerate(mixture.means):
        part, share = x[nearest == i], 1 / len(mixture.means)
        assert abs(len(part) / len(x) - share) < slack + 4 * math.sqrt(share * (1 - share) / len(x))
        error = mixture.std / math.sqrt(len(part))
        assert (part.mean(0) - mean).abs().max() < slack + 4 * error
        assert (part.std(0) - mixture.std).abs().max() < slack + 4 * error / math.sqrt(2)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
@pytest.mark.parametrize("method", ["euler", "heun", "heun-but-last", "sde"])
def test_every_sampler_reaches_the_mixture(method, interpolant):
    config = FlowSampling(method=method, interpolant=interpolant, steps=100)
    # Euler and Euler-Maruyama are off by their step
    assert_from_mixture(sample_latents(GENERATOR, labels(1000), config, seed=0, batch_size=1000), slack=0.03)


@pytest.mark.parametrize("diffusion", ["linear", "decreasing"])
def test_the_diffusion_leaves_the_marginals_alone(diffusion):
    """On the way, at noise level 0.5, and at the end: one Gaussian of known mean and variance."""
    mixture = Mixture(torch.tensor([[1.0, -2.0]]), std=0.3)
    config = FlowSampling(method="sde", steps=100, diffusion=diffusion, last=0.01)
    field = guided_field(MixtureGenerator(mixture), labels(2000, 0), config)
    draw = noise_stream(0, range(2000), (1, 2))
    for t, x in zip(time_grid(config)[1:], integrate(field, draw(), config, draw), strict=True):
        if abs(t - 0.5) < 5e-3 or t == 0:
            variance = ((1 - t) * 0.3) ** 2 + t**2
            assert (x.mean(0) - (1 - t) * mixture.means).abs().max() < 4 * math.sqrt(variance / 2000) + 0.01
            assert (x.var(0) / variance - 1).abs().max() < 4 * math.sqrt(2 / 2000) + 0.05


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("heun-but-last", 2)])
def test_order_of_convergence(method, order):
    """dx/dt = x cos(3t), so that x(0) = x(1) exp(-sin(3) / 3): the slope of log error over log steps."""

    def error(steps: int) -> float:
        config, x = FlowSampling(method=method, steps=steps), torch.ones(1, 1, 1, dtype=torch.float64)
        *_, end = integrate(lambda x, t: x * math.cos(3 * t), x, config, lambda: x)
        return abs(end.item() - math.exp(-math.sin(3) / 3))

    counts = [128, 256, 512, 1024]
    slope, _ = np.polyfit(np.log(counts), [math.log(error(steps)) for steps in counts], 1)
    assert -slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_order_of_convergence_to_the_latents_of_a_generator(method, order, interpolant):
    """Of one Gaussian N(m, s^2) all samples are known: noise e becomes m + s e."""
    mean = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    mixture = Mixture(mean, std=0.5)
    noise = torch.randn(8, 1, 2, generator=Generator().manual_seed(0), dtype=torch.float64)

    def error(steps: int) -> float:
        config = FlowSampling(method=method, steps=steps, interpolant=interpolant)

        def field(x: Tensor, t: float) -> Tensor:  # in float64
            return mixture.velocity(x, x.new_full((len(x),), t), interpolant)

        *_, end = integrate(field, noise, config, lambda: noise)
        return (end - (mean + 0.5 * noise)).abs().max().item()

    counts = [64, 128, 256]
    slope, _ = np.polyfit(np.log(counts), [math.log(error(steps)) for steps in counts], 1)
    assert -slope == pytest.approx(order, abs=0.1)


def test_a_learned_field_and_its_samples_are_those_of_the_mixture():
    torch.manual_seed(0)
    mixture = Mixture(means=torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), std=0.6)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 64), torch.nn.GELU(), torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 2)
    )

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None, None]
        return network(torch.cat([x, t, t * x], dim=2))

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2, betas=(0.9, 0.99))
    generator = Generator().manual_seed(0)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 150)
        noise, t = torch.randn(512, 1, 2, generator=generator), draw_times(512, TrainingTimes(), generator=generator)
        loss = flow_losses(velocity, mixture.sample(512, seed=step), noise, t).error.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.linspace(0.05, 0.95, 1000)
    x = noised(mixture.sample(1000, seed=1000), torch.randn(1000, 1, 2, generator=generator), t)
    true = mixture.velocity(x, t)
    assert (velocity(x, t) - true).square().mean() < 0.05 * true.square().mean()

    class Learned(SimpleNamespace):
        null_class = 0

        def velocity(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return velocity(x, t)

    learned = Learned(**{name: getattr(GENERATOR, name) for name in ("latent_shape", "device", "fingerprint")})
    samples = sample_latents(learned, labels(4000, 0), FlowSampling(method="heun", steps=20), seed=0, batch_size=4000)
    variance = torch.tensor([1 + 0.36, 0.36])  # that of the means, and that of the parts
    assert (samples.mean(0)).abs().max() < 0.1
    assert (samples.var(0) / variance - 1).abs().max() < 0.1


@pytest.mark.parametrize("method", ["euler", "sde"])
def test_a_sample_depends_on_its_seed_and_number_alone(method):
    config = FlowSampling(method=method, steps=6, guidance=2.0)
    many = torch.arange(7) % 3
    whole = sample_latents(GENERATOR, many, config, seed=5, first=10, batch_size=7)
    for size in (1, 3):
        torch.testing.assert_close(sample_latents(GENERATOR, many, config, seed=5, first=10, batch_size=size), whole)
    torch.testing.assert_close(sample_latents(GENERATOR, many[4:], config, seed=5, first=14), whole[4:])
    assert (sample_latents(GENERATOR, many, config, seed=6, first=10) - whole).abs().min() > 0


def test_noise_is_gaussian_and_its_own_for_each_call_and_sample():
    draw = noise_stream(3, range(500), (4, 3))
    one, other = draw(), draw()
    assert one.shape == (500, 4, 3)
    for noise in (one, other, (one + other) / math.sqrt(2), (one[:-1] - one[1:]) / math.sqrt(2)):
        assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
        assert abs(noise.var() - 1) < 4 * math.sqrt(2 / noise.numel())
    assert torch.equal(noise_stream(3, [7], (4, 3))(), one[7:8])


def test_the_grid_is_even_shifted_or_cut():
    assert time_grid(FlowSampling(steps=4)) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert time_grid(FlowSampling(steps=4), level=0.5) == [0.5, 0.25, 0.0]
    assert time_grid(FlowSampling(steps=4), level=0.6) == [0.6, 0.5, 0.25, 0.0]
    assert time_grid(FlowSampling(steps=4, shift=3.0)) == pytest.approx([1, 9 / 10, 3 / 4, 1 / 2, 0])
    assert time_grid(FlowSampling(steps=4, method="sde", last=0.1)) == pytest.approx([1, 0.7, 0.4, 0.1, 0])
    assert time_grid(FlowSampling(steps=4, method="sde", last=0.1), level=0.05) == [0.05, 0]


def test_guidance_is_an_extrapolation_within_its_interval_and_channels():
    x, some = torch.randn(2, 1, 2, generator=Generator().manual_seed(0)), torch.tensor([0, 2])
    config = FlowSampling(guidance=3.0, guidance_low=0.2, guidance_high=0.7)
    field, t = guided_field(GENERATOR, some, config), torch.full((2,), 0.5)
    labelled, unlabelled = GENERATOR.velocity(x, t, some), GENERATOR.velocity(x, t, labels(2))
    expected = unlabelled + 3 * (labelled - unlabelled)
    torch.testing.assert_close(field(x, 0.5), expected)
    for outside in (0.1, 0.8):
        t = torch.full((2,), outside)
        torch.testing.assert_close(field(x, outside), GENERATOR.velocity(x, t, some))
    first = guided_field(GENERATOR, some, replace(config, guided_channels=1))(x, 0.5)
    torch.testing.assert_close(first, torch.cat([expected[..., :1], labelled[..., 1:]], dim=2))


@pytest.mark.parametrize("method", ["euler", "heun", "sde"])
def test_sdedit_from_level_0_is_the_start_and_from_1_forgets_it(method):
    config, start = FlowSampling(method=method, steps=10), MIXTURE.sample(5, seed=1)
    kept = sample_latents(GENERATOR, labels(5), config, seed=0, start=start, level=0.0)
    assert torch.equal(kept, start)
    assert kept is not start
    fresh = sample_latents(GENERATOR, labels(5), config, seed=0)
    assert torch.equal(sample_latents(GENERATOR, labels(5), config, seed=0, start=start, level=1.0), fresh)


@pytest.mark.parametrize("method", ["heun", "sde"])
def test_sdedit_keeps_the_distribution_and_less_of_the_start_from_a_higher_level(method):
    start, config = MIXTURE.sample(1000, seed=1), FlowSampling(method=method, steps=80)
    moved = []
    for level in (0.2, 0.5, 0.8):
        x = sample_latents(GENERATOR, labels(1000), config, seed=0, start=start, level=level, batch_size=1000)
        assert_from_mixture(x, slack=0.03)
        moved.append((x - start).norm(dim=2).mean().item())
    assert moved == sorted(moved)


@pytest.mark.parametrize("method", ["euler", "sde"])
def test_noise_is_added_to_what_was_sampled(method):
    some, config = labels(2000), FlowSampling(method=method, steps=3)
    noisy, slack = replace(config, latent_noise=0.3), 4 / math.sqrt(4000)
    clean, all_noisy = (sample_latents(GENERATOR, some, how, seed=4, batch_size=2000) for how in (config, noisy))
    added = (all_noisy - clean) / 0.3
    assert abs(added.mean()) < slack
    assert abs(added.var() - 1) < math.sqrt(2) * slack
    assert abs((added * noise_stream(4, range(2000), (1, 2))()).mean()) < slack  # not that of the start
    few = sample_latents(GENERATOR, some[:5], noisy, seed=4, first=3, batch_size=2)
    torch.testing.assert_close(few, all_noisy[3:8], rtol=1e-4, atol=1e-5)
    start = MIXTURE.sample(5, seed=1)
    assert torch.equal(sample_latents(GENERATOR, some[:5], noisy, seed=0, start=start, level=0.0), start)
    guess, plain = (predict_latents(GENERATOR, some[:5], c, seed=0, start=start, level=0.4) for c in (noisy, config))
    assert not torch.equal(guess, plain)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_a_prediction_is_the_expected_data(interpolant):
    """E[x | x_t], here of a single Gaussian; on the linear path also one Euler step of SDEdit."""
    generator = MixtureGenerator(Mixture(torch.tensor([[1.0, -2.0]]), std=0.3))
    start, t = MIXTURE.sample(3, seed=0), 0.4
    how = {"seed": 5, "first": 2, "start": start, "level": t}
    config = FlowSampling(interpolant=interpolant)
    x = predict_latents(generator, labels(3, 0), config, **how, batch_size=2)
    at = coefficients(torch.tensor([t]), interpolant)
    x_t = at.data * start + at.noise * noise_stream(5, range(2, 5), (1, 2))()
    mean, a, s = generator.mixture.means, at.data, at.noise
    torch.testing.assert_close(x, mean + a * 0.09 / (a**2 * 0.09 + s**2) * (x_t - a * mean))
    if interpolant == "linear":
        torch.testing.assert_close(x, sample_latents(generator, labels(3, 0), FlowSampling(steps=1), **how))


def test_a_prediction_is_smoother_than_a_sample():
    mixture, level = Mixture(torch.tensor([[1.0, -2.0]]), std=0.3), 0.3
    start, some = mixture.sample(2000, seed=0), labels(2000, 0)
    how = {"seed": 0, "start": start, "level": level, "batch_size": 2000}
    sampled = sample_latents(MixtureGenerator(mixture), some, FlowSampling(method="heun", steps=60), **how)
    predicted = predict_latents(MixtureGenerator(mixture), some, FlowSampling(), **how)
    shrunk = (0.7 * 0.3) ** 2 / ((0.7 * 0.3) ** 2 + 0.3**2)
    for x, variance in ((start, 0.09), (sampled, 0.09), (predicted, 0.09 * shrunk)):
        assert (x.var(0) / variance - 1).abs().max() < 4 * math.sqrt(2 / 2000) + 0.02


def test_a_prediction_is_guided_and_asks_once():
    asked = []

    class Counted(MixtureGenerator):
        def velocity(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            asked.append(len(latents))
            return super().velocity(latents, t, labels)

    generator, some = Counted(MIXTURE), torch.tensor([0, 2])
    how = {"seed": 0, "start": MIXTURE.sample(2, seed=1), "level": 0.5}
    config = FlowSampling(guidance=3.0, guidance_high=0.6)
    x = predict_latents(generator, some, config, **how)
    assert asked == [4]  # with and without the label
    plain = [predict_latents(generator, y, FlowSampling(), **how) for y in (some, labels(2))]
    torch.testing.assert_close(x, plain[1] + 3 * (plain[0] - plain[1]))
    torch.testing.assert_close(predict_latents(generator, some, replace(config, guidance_high=0.4), **how), plain[0])
    assert torch.equal(predict_latents(generator, some, config, **how | {"level": 0.0}), how["start"])
    with pytest.raises(ValueError, match="level is -0.1; it is a noise level between 0 and 1, that is 1 - sigma"):
        predict_latents(generator, some, config, **how | {"level": -0.1})


def test_progress_and_no_samples_at_all():
    seen = []
    sample_latents(GENERATOR, labels(5), FlowSampling(steps=1), seed=0, batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
    assert sample_latents(GENERATOR, labels(0), FlowSampling(), seed=0).shape == (0, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 1.5, "start": MIXTURE.sample(2, seed=0)}, "level is 1.5; it is a noise level between 0 and 1"),
        ({"level": math.nan, "start": MIXTURE.sample(2, seed=0)}, "level is nan; it is a noise level"),
        ({"level": 0.5}, "level is 0.5, so sampling starts from latents of images; give them as start"),
        ({"start": torch.zeros(2, 3, 2)}, r"start is \(2, 3, 2\), but 2 labels need \(2, 1, 2\); encode the images"),
        ({"start": torch.full((2, 1, 2), math.inf)}, "start holds NaN or infinity; encode the images again"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_latents(GENERATOR, labels(2), FlowSampling(), seed=0, **arguments)


def test_labels_that_would_be_cut_to_whole_numbers_are_refused(unchecked):
    for some in (torch.tensor([0.7, 1.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="labels are .*; give the numbers of classes in a row"):
            sample_latents(GENERATOR, some, FlowSampling(), seed=0)


def test_wrong_labels_channels_and_exploding_generators_are_refused():
    with pytest.raises(ValueError, match="labels go from 0 to 2, and 3 is for no label; not 4"):
        sample_latents(GENERATOR, labels(2, 4), FlowSampling(), seed=0)
    with pytest.raises(ValueError, match="guided_channels is 3, but the latents have 2; use None for all"):
        sample_latents(GENERATOR, labels(2), FlowSampling(guided_channels=3), seed=0)
    damaged = MixtureGenerator(Mixture(torch.tensor([[math.nan, 0.0]]), std=1.0))
    with pytest.raises(ValueError, match="sampling ended in NaN or infinity; use less guidance, more steps, or other"):
        sample_latents(damaged, labels(1, 0), FlowSampling(steps=1), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"method": "dopri5"}, "method is 'dopri5'; choose from 'euler', 'heun', 'heun-but-last', 'sde'"),
        ({"interpolant": "vp"}, "interpolant is 'vp'; choose from 'linear', 'cosine'"),
        ({"diffusion": "constant"}, "diffusion is 'constant'; choose from 'linear', 'decreasing'"),
        ({"guidance": -1.0}, "guidance is -1.0; choose 1 for none, more for stronger"),
        ({"guidance": math.nan}, "guidance is nan; choose 1 for none, more for stronger"),
        ({"guidance_low": 0.8, "guidance_high": 0.2}, "the first not above the second; not 0.8 and 0.2"),
        ({"guidance_high": 1.5}, "noise levels between 0 and 1, the first not above the second; not 0.0 and 1.5"),
        ({"guided_channels": 0}, "guided_channels is 0; choose at least 1, or None for all"),
        ({"shift": 0.0}, "shift is 0.0, which must be above 0; 1 makes equal steps"),
        ({"last": 1.0}, "last is 1.0; it is a noise level between 0 and 1"),
    ],
)
def test_a_wrong_config_says_so(change, message):
    with pytest.raises(ValueError, match=message):
        check(FlowSampling, {**asdict(FlowSampling()), **change})
