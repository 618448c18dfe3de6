"""pFID of latents: exact counts, moments in closed form, no dependence on scale and shift."""

import pytest
import torch

from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, NoiseCell, noised_by_cells
from robustok.evaluation.metrics.pfid import ALPHAS


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS = 3 + torch.tensor([0.5, 2.0, 10.0]) * normal(40, 20, 3)
CHANNELS = ChannelStats.of(LATENTS)


def test_the_grid():
    assert len(NOISE_GRID) == 15
    assert [tuple(cell) for cell in NOISE_GRID] == [(alpha, s) for alpha in ALPHAS for s in (0.1, 0.2, 0.3)]


def test_channels_are_the_same_in_parts_and_as_a_whole():
    in_parts = ChannelStats.total(ChannelStats.of(part) for part in LATENTS.split([1, 30, 9]))
    flat = LATENTS.double().flatten(0, 1)
    for found in (CHANNELS, in_parts):
        assert found.tokens == 800
        torch.testing.assert_close(found.mean, flat.mean(dim=0), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.std, flat.std(dim=0, correction=0), rtol=1e-12, atol=0)


def test_exactly_alpha_of_each_images_tokens_are_disturbed():
    cells = list(noised_by_cells(LATENTS, CHANNELS, seed=3, block=0))
    assert [cell for cell, _ in cells] == list(NOISE_GRID)
    for cell, noisy in cells:
        moved = (noisy != LATENTS).any(dim=2)
        assert (moved.sum(dim=1) == round(cell.alpha * 20)).all()


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_moments_are_those_of_a_noise_level(strength):
    """z' - m has the mean (1 - s) (z - m) and the deviation s k, k being that of the channel."""
    still = torch.tensor([1.0, -4.0, 30.0]).expand(500, 100, 3)
    ((_, noisy),) = noised_by_cells(still, CHANNELS, [NoiseCell(1.0, strength)], seed=0, block=0)
    mean, spread = CHANNELS.mean.float(), CHANNELS.std.float()
    count = 50_000
    off = (noisy - (mean + (1 - strength) * (still - mean))).flatten(0, 1) / (strength * spread)
    assert off.mean(dim=0).abs().max() < 5 / count**0.5
    assert (off.var(dim=0) - 1).abs().max() < 5 * (2 / count) ** 0.5


def test_how_far_a_cell_moves_latents():
    """sqrt(2 alpha) s standard deviations: of the noise s, of the latent's own way to the mean as much."""
    latents = torch.tensor([0.5, 2.0, 10.0]) * normal(400, 20, 3)
    for cell, noisy in noised_by_cells(latents, ChannelStats.of(latents), seed=0, block=0):
        moved = ((noisy - latents) / ChannelStats.of(latents).std.float()).square().mean().sqrt()
        assert moved == pytest.approx((2 * cell.alpha) ** 0.5 * cell.strength, rel=0.03)


def test_scale_and_shift_of_channels_change_nothing():
    scale, shift = torch.tensor([0.01, -3.0, 100.0]), torch.tensor([5.0, -1.0, 300.0])
    moved = ChannelStats.of(scale * LATENTS + shift)
    absolute = ChannelStats(CHANNELS.tokens, CHANNELS.mean, CHANNELS.scatter)
    torch.testing.assert_close(moved.mean, scale * absolute.mean + shift, rtol=1e-6, atol=0)
    # a negative scale mirrors a channel, and so the noise: the same in distribution, not number by number
    sign = scale.sign()
    for (_, one), (_, other) in zip(
        noised_by_cells(sign * LATENTS, ChannelStats.of(sign * LATENTS), seed=1, block=2),
        noised_by_cells(scale * LATENTS + shift, moved, seed=1, block=2),
        strict=True,
    ):
        torch.testing.assert_close((other - shift) / scale.abs(), one, rtol=0, atol=1e-3)  # of 300 and 0.01 a 1e-7th


def test_cells_blocks_and_seeds_draw_their_own_numbers():
    def all_cells(seed, block):
        return [noisy for _, noisy in noised_by_cells(LATENTS, CHANNELS, seed=seed, block=block)]

    once = all_cells(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(once, all_cells(0, 0), strict=True))
    different = [*once, *all_cells(1, 0), *all_cells(0, 1)]
    assert len({noisy.numpy().tobytes() for noisy in different}) == 3 * 15


def test_a_channel_without_spread_stays_as_it_is():
    latents = torch.cat([LATENTS, torch.full((40, 20, 1), 7.0)], dim=2)
    for _, noisy in noised_by_cells(latents, ChannelStats.of(latents), seed=0, block=0):
        torch.testing.assert_close(noisy[:, :, 3], latents[:, :, 3], rtol=1e-6, atol=0)
