"""Perturbation of latents: exact counts, moments in closed form, neighbors by brute force, gradients."""

import math

import pytest
import torch

from robustok.tokenizer import latent_perturbation
from robustok.tokenizer.latent_perturbation import (
    AddedNoise,
    LatentDraw,
    LatentMixing,
    LatentNoise,
    draw_latent,
    interpolate_noise,
    mix_neighbors,
    perturb_latents,
)

KINDS = [LatentNoise, LatentMixing]
ALL = [*KINDS, AddedNoise]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def everything(b: int, n: int) -> torch.Tensor:
    return torch.ones(b, n, dtype=torch.bool)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.1), (0.5, 0.5), (0.3, 1.0), (0.06, 0.26), (0.0, 1.0), (1.0, 0.0)])
def test_exactly_the_fractions_are_disturbed(kind, alpha, beta):
    latents = normal(10, 16, 3)
    draw = draw_latent(kind(alpha=alpha, beta=beta), 10, 16, 3, 0.0, generator=seeded(1))
    moved = (perturb_latents(kind(), latents, draw) != latents).any(dim=2)
    assert torch.equal(moved, draw.chosen)
    hit = moved.any(dim=1)
    assert hit.sum() == (round(beta * 10) if round(alpha * 16) else 0)
    assert (moved.sum(dim=1)[hit] == round(alpha * 16)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_annealed_like_the_discrete_one(kind):
    config = kind(alpha=0.8, strength=0.4, anneal_start=0.2, anneal_end=0.6, final_fraction=0.25)
    for progress, left in ((0.0, 1.0), (0.2, 1.0), (0.4, 0.625), (0.6, 0.25), (1.0, 0.25)):
        assert config.at(progress) == pytest.approx((0.8 * left, 0.4 * left))
    draw = draw_latent(config, 4, 100, 3, 1.0, generator=seeded(0))
    assert draw.chosen.sum() == 2 * 20  # beta 0.5 of 4 images, a quarter of 0.8 of 100 tokens
    assert draw.fraction.max() <= 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_are_uniform_up_to_the_strength(kind):
    fraction = draw_latent(kind(strength=0.4), 5000, 2, 1, 0.0, generator=seeded(0)).fraction
    assert 0 <= fraction.min() < 0.001
    assert 0.399 < fraction.max() <= 0.4
    error = 0.4 / 12**0.5 / 5000**0.5  # of the mean of a uniform distribution
    assert fraction.mean() == pytest.approx(0.2, abs=5 * error)


@pytest.mark.parametrize("kind", ALL)
def test_a_draw_is_its_seed_alone(kind):
    config = kind()
    first, again, other = (draw_latent(config, 6, 5, 4, 0.0, generator=seeded(s)) for s in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.how, other.how)


@pytest.mark.parametrize("kind", ALL)
def test_no_strength_moves_nothing(kind):
    latents = normal(4, 5, 3)
    draw = draw_latent(kind(beta=1.0, strength=0.0), 4, 5, 3, 0.0, generator=seeded(0))
    assert torch.equal(perturb_latents(kind(), latents, draw), latents)


@pytest.mark.parametrize(("fraction", "gamma"), [(0.3, 1.0), (0.6, 3.0), (1.0, 0.5)])
def test_moments_of_noisy_latents(fraction, gamma):
    """Mean m as before, variance (1 - s)^2 v + s^2 gamma^2 v, channel by channel."""
    b, n, mean, deviation = 200, 250, torch.tensor([0.0, 5.0, -20.0]), torch.tensor([1.0, 0.1, 4.0])
    latents = mean + deviation * normal(b, n, 3)
    draw = LatentDraw(everything(b, n), torch.full((b,), fraction), normal(b, n, 3, seed=1))
    noisy = perturb_latents(LatentNoise(gamma=gamma), latents, draw).flatten(0, 1)
    ratio = (1 - fraction) ** 2 + fraction**2 * gamma**2
    assert ((noisy.mean(dim=0) - mean) / deviation).abs().max() < 5 * (ratio + 1) ** 0.5 / (b * n) ** 0.5
    assert (noisy.var(dim=0) / deviation**2 / ratio - 1).abs().max() < 6 * (2 / (b * n)) ** 0.5


def test_scales_of_added_noise_are_half_normal():
    """|N(0, tau^2)|: its mean is tau sqrt(2 / pi), its second moment tau^2; 3 in 1000 are beyond 3 tau."""
    count, config = 20_000, AddedNoise(strength=1.5, anneal_start=0.0, anneal_end=1.0, final_fraction=0.0)
    for progress, tau in ((0.0, 1.5), (0.5, 0.75)):
        scales = draw_latent(config, count, 2, 1, progress, generator=seeded(0)).fraction
        assert scales.min() >= 0
        assert scales.mean() == pytest.approx(tau * (2 / math.pi) ** 0.5, rel=0.025)  # four standard errors
        assert scales.square().mean() == pytest.approx(tau**2, rel=0.04)
        assert (scales > 3 * tau).double().mean() == pytest.approx(0.0027, abs=0.0015)
    assert AddedNoise().at(1.0) == (1.0, 0.8)


def test_added_noise_takes_nothing_away():
    """Mean m as before, variance (1 + s^2) v, channel by channel; the gradient is that of the latent."""
    b, n, mean, deviation = 200, 250, torch.tensor([0.0, 5.0, -20.0]), torch.tensor([1.0, 0.1, 4.0])
    latents = (mean + deviation * normal(b, n, 3)).requires_grad_()
    draw = LatentDraw(everything(b, n), torch.full((b,), 2.0), normal(b, n, 3, seed=1))
    noisy = perturb_latents(AddedNoise(), latents, draw)
    torch.testing.assert_close(noisy - latents, 2 * latents.flatten(0, 1).std(dim=0, correction=0) * draw.how)
    assert (noisy.flatten(0, 1).var(dim=0) / deviation**2 / 5 - 1).abs().max() < 6 * (2 / (b * n)) ** 0.5
    (gradient,) = torch.autograd.grad(noisy.sum(), latents)
    assert torch.equal(gradient, torch.ones_like(latents))


def test_scale_and_shift_of_channels_are_out_of_the_question():
    latents, scale, shift = normal(6, 5, 3), torch.tensor([0.1, 8.0, 100.0]), torch.tensor([3.0, -1.0, 50.0])
    for config in (LatentNoise(beta=1.0, gamma=2.0), LatentMixing(beta=1.0, neighbors=3)):
        draw = draw_latent(config, 6, 5, 3, 0.0, generator=seeded(2))
        # neighbors are those of the same distances: one scale for all channels
        factor = scale if isinstance(config, LatentNoise) else torch.tensor(8.0)
        moved = perturb_latents(config, factor * latents + shift, draw)
        torch.testing.assert_close((moved - shift) / factor, perturb_latents(config, latents, draw), rtol=0, atol=1e-3)


def test_gradients_are_scaled_by_what_is_left():
    latents = normal(4, 5, 3).requires_grad_()
    for config in (LatentNoise(beta=0.5, alpha=0.6), LatentMixing(beta=0.5, alpha=0.6)):
        draw = draw_latent(config, 4, 5, 3, 0.0, generator=seeded(3))
        (gradient,) = torch.autograd.grad(perturb_latents(config, latents, draw).sum(), latents)
        left = 1 - draw.chosen * draw.fraction[:, None]
        torch.testing.assert_close(gradient, left[:, :, None].expand(4, 5, 3))


def nearest_others(latents: torch.Tensor, image: int, position: int, count: int) -> torch.Tensor:
    """By brute force: the `count` latents of other images nearest to one, the nearest first."""
    others = torch.cat([latents[:image], latents[image + 1 :]]).flatten(0, 1)
    return others[(others.double() - latents[image, position].double()).norm(dim=1).argsort()[:count]]


@pytest.mark.parametrize("held", [latent_perturbation.DISTANCES, 40])
def test_neighbors_are_the_nearest_of_other_images(held, monkeypatch):
    monkeypatch.setattr(latent_perturbation, "DISTANCES", held)
    b, n, count = 4, 6, 3
    latents, pick = normal(b, n, 5), torch.rand(b, n, generator=seeded(1))
    mixed = mix_neighbors(latents, everything(b, n), torch.ones(b), pick, count)  # all the way
    for image in range(b):
        for position in range(n):
            near = nearest_others(latents, image, position, count)
            assert torch.equal(mixed[image, position], near[int(pick[image, position] * count)])


def test_part_of_the_way():
    latents, fraction = normal(3, 4, 2), torch.tensor([0.0, 0.25, 0.5])
    chosen = torch.rand(3, 4, generator=seeded(2)) < 0.5
    pick = torch.zeros(3, 4)
    way = mix_neighbors(latents, everything(3, 4), torch.ones(3), pick, 1)
    mixed = mix_neighbors(latents, chosen, fraction, pick, 1)
    s = fraction[:, None, None]
    wanted = torch.where(chosen[:, :, None], (1 - s) * latents + s * way, latents)
    torch.testing.assert_close(mixed, wanted)


def test_never_from_the_image_itself():
    """All latents of an image are equal, and nearer to each other than to anything else."""
    latents = torch.tensor([0.0, 1.0, 10.0])[:, None, None].expand(3, 4, 2).clone()
    mixed = mix_neighbors(latents, everything(3, 4), torch.ones(3), torch.full((3, 4), 0.999), 4)
    assert mixed[:, 0, 0].tolist() == [1.0, 0.0, 1.0]


def test_more_neighbors_than_there_are_others():
    latents = normal(2, 2, 3)
    picks = torch.rand(2, 2, generator=seeded(0))
    mixed = mix_neighbors(latents, everything(2, 2), torch.ones(2), picks, 100)
    for image in range(2):
        for position in range(2):
            assert (mixed[image, position] == latents[1 - image]).all(dim=1).any()


def test_a_bank_of_some_latents(monkeypatch):
    monkeypatch.setattr(latent_perturbation, "BANK", 8)
    latents = normal(4, 6, 2)
    bank = latents.flatten(0, 1)[torch.arange(8) * 24 // 8]
    mixed = mix_neighbors(latents, everything(4, 6), torch.ones(4), torch.rand(4, 6, generator=seeded(0)), 3)
    assert (mixed.flatten(0, 1)[:, None] == bank).all(dim=2).any(dim=1).all()


def test_an_image_alone_has_no_others_and_stays():
    latents = normal(1, 4, 2)
    assert mix_neighbors(latents, everything(1, 4), torch.ones(1), torch.zeros(1, 4), 3) is latents
    two = normal(2, 4, 2)
    assert mix_neighbors(two, ~everything(2, 4), torch.ones(2), torch.zeros(2, 4), 3) is two


def test_noise_takes_the_latents_place():
    latents, noise = normal(2, 3, 2), normal(2, 3, 2, seed=1)
    chosen = torch.tensor([[True, False, True], [True, True, True]])
    mixed = interpolate_noise(latents, noise, chosen, torch.tensor([1.0, 0.25]))
    assert torch.equal(mixed[0, [0, 2]], noise[0, [0, 2]])
    assert torch.equal(mixed[0, 1], latents[0, 1])
    torch.testing.assert_close(mixed[1], 0.75 * latents[1] + 0.25 * noise[1])


def test_wrong_settings_are_named():
    for kind in KINDS:
        with pytest.raises(ValueError, match="strength is 1.5; it is a share"):
            kind(strength=1.5)
        with pytest.raises(ValueError, match="annealing ends at 0.1, before it starts at 0.2; swap the two"):
            kind(anneal_end=0.1)
    with pytest.raises(ValueError, match=r"gamma is a standard deviation and at least 0, not -1"):
        LatentNoise(gamma=-1)
    with pytest.raises(ValueError, match="perturbation strength is a standard deviation and at least 0, not -0.1"):
        AddedNoise(strength=-0.1)
    with pytest.raises(ValueError, match="neighbors is 0; it must be at least 1"):
        LatentMixing(neighbors=0)
