"""AuthPct and C_T: closed forms, and dgm-eval's definitions computed anew, pair by pair."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from robustok.evaluation.metrics.memorization import auth_percent, data_copying, k_means, mann_whitney, nearest


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=numbers(seed))


def three(count: int, width: int, seed: int) -> torch.Tensor:
    """Three clusters so far apart that every k-means finds them; sizes as 3 : 2 : 1."""
    centers = 40 * torch.eye(3, width)
    return cloud(count, width, seed) + centers[torch.arange(count) % 6 // 3 + (torch.arange(count) % 6 > 4)]


def copying(made: torch.Tensor, real: torch.Tensor, train: torch.Tensor, seed: int = 0) -> float:
    return data_copying(generated=made, held_out=real, train=train, generator=numbers(seed))


# AuthPct


def auth_by_definition(made: np.ndarray, train: np.ndarray) -> float:
    """For each generated point its nearest training point, and for that its nearest other one."""
    authentic = []
    for point in made:
        distances = np.linalg.norm(train - point, axis=1)
        own = distances.argmin()
        others = np.linalg.norm(np.delete(train, own, axis=0) - train[own], axis=1)
        authentic.append(others.min() < distances[own])
    return 100 * float(np.mean(authentic))


def test_copies_are_not_authentic():
    train = cloud(300, 24)
    assert auth_percent(generated=train, train=train) == 0
    assert auth_percent(generated=train + 1e-4, train=train) == 0
    assert auth_percent(generated=train, train=train.repeat(2, 1)) == 0, "nor where training images come twice"
    assert auth_percent(generated=cloud(50, 24, seed=1) + 99, train=train) == 100


@pytest.mark.parametrize(
    ("width", "mutual"),
    [(1, 2 / 3), (2, 6 * math.pi / (8 * math.pi + 3 * math.sqrt(3))), (3, 16 / 27)],
)
def test_independent_draws_are_authentic_but_for_mutual_neighbors(width, mutual):
    """A draw is not authentic where it and a training image are each other's nearest: of points of a Poisson process,
    the fraction `mutual` are (Pickard 1982)."""
    both = torch.rand(6000, width, generator=numbers(3))
    share = 100 * (1 - mutual)
    hits = []
    for start in range(0, 3000, 100):  # few at a time, so that the draws do not count among themselves
        made = both[start : start + 100]
        hits.append(auth_percent(generated=made, train=both[3000:]))
    error = 100 * math.sqrt(mutual * (1 - mutual) / 3000)
    assert float(np.mean(hits)) == pytest.approx(share, abs=5 * error)


def test_in_many_directions_more_are_authentic_and_held_out_draws_tell_how_many():
    """The nearest training image is often one amid all others, and so nearer to these (hubs: Radovanovic 2010)."""
    train = cloud(800, 64)
    held_out, made = (auth_percent(generated=cloud(800, 64, seed), train=train) for seed in (1, 2))
    assert held_out > 60
    assert made == pytest.approx(held_out, abs=9)


@pytest.mark.parametrize("width", [2, 30])
def test_auth_percent_is_that_of_the_definition(width, monkeypatch):
    train, made = cloud(210, width), cloud(150, width, seed=1)
    made[:20] = train[:20]
    wanted = auth_by_definition(made.double().numpy(), train.double().numpy())
    assert auth_percent(generated=made, train=train) == pytest.approx(wanted, abs=1e-9)
    monkeypatch.setattr("robustok.evaluation.metrics.memorization.ROWS", 32)
    assert auth_percent(generated=made, train=train) == pytest.approx(wanted, abs=1e-9)


def test_the_nearest_of_all_and_of_all_others(monkeypatch):
    train = torch.tensor([[0.0], [1], [3], [7]])
    assert nearest(torch.tensor([[0.4], [6.0]]), train).tolist() == [0, 3]
    monkeypatch.setattr("robustok.evaluation.metrics.memorization.ROWS", 2)
    assert nearest(train, train, own=torch.arange(4)).tolist() == [1, 0, 1, 2]


# C_T


def z_by_definition(made: np.ndarray, real: np.ndarray) -> float:
    """Meehan et al.'s: scipy's U of the first sample, less its mean with a continuity correction."""
    m, n = len(made), len(real)
    u = scipy.stats.mannwhitneyu(made, real, alternative="less").statistic
    return float((u - (n * m / 2 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12))


def ct_by_definition(made: np.ndarray, real: np.ndarray, train: np.ndarray, cells: list[np.ndarray]) -> float:
    """The mean of Z over cells of more than 20 generated points, weighted with their held-out points."""
    total, weight = 0.0, 0
    for cell in range(3):
        some, here, there = (x[at == cell] for x, at in zip((train, real, made), cells, strict=True))
        if len(there) > 20:
            far = [np.array([np.linalg.norm(some - point, axis=1).min() for point in part]) for part in (there, here)]
            total, weight = total + len(here) * z_by_definition(*far), weight + len(here)
    return total / weight


def test_z_is_that_of_scipys_u():
    a, b = cloud(40, 1).flatten(), cloud(30, 1, seed=1).flatten()
    assert mann_whitney(a, b) == pytest.approx(z_by_definition(a.numpy(), b.numpy()))
    ties = torch.tensor([1.0, 2, 2, 5]), torch.tensor([2.0, 2, 4])
    assert mann_whitney(*ties) == pytest.approx(z_by_definition(*(x.numpy() for x in ties)))


def test_k_means_finds_clusters_that_are_apart():
    points = three(600, 5, seed=0)
    centers = k_means(points, 3, generator=numbers())
    wanted = torch.stack([points[:, :3].argmax(1) == c for c in range(3)]).double() @ points.double()
    wanted /= torch.tensor([300, 200, 100])[:, None]
    assert torch.allclose(centers[centers[:, :3].argmax(1).argsort()], wanted, atol=1e-6)


def test_copies_have_the_lowest_c_t_that_there_is():
    """All copies are nearer than all held-out images, so U is 0 in every cell."""
    train, real = three(600, 8, seed=0), three(300, 8, seed=1)
    made = train[:300]
    cells = [(150, 150), (100, 100), (50, 50)]  # held-out and generated images
    z = [(0.5 - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12) for n, m in cells]
    wanted = sum(n * value for (n, _), value in zip(cells, z, strict=True)) / 300
    assert copying(made, real, train) == pytest.approx(wanted)
    assert copying(made, real, train) < -10
    assert copying(made * 1.5, real, train) > 10, "and what is far off is underfitted"


def test_independent_draws_have_a_c_t_around_zero():
    values = [copying(cloud(200, 6, s), cloud(200, 6, s + 50), cloud(400, 6, s + 99)) for s in range(8)]
    assert abs(float(np.mean(values))) < 1.2, values
    assert max(map(abs, values)) < 4, values


@pytest.mark.parametrize("width", [7, 90])
def test_c_t_is_that_of_the_definition(width):
    """With components of all training images where features are wide; the third cell has too few generated images."""
    train, real, made = three(420, width, seed=0), three(240, width, seed=1), three(120, width, seed=2)
    made[60:] = train[60:120]
    parts = [x.double().numpy() for x in (train, real, made)]
    cells = [x[:, :3].argmax(axis=1) for x in parts]
    assert (cells[2] == 2).sum() == 20
    if width > 64:
        mean = parts[0].mean(axis=0)
        axes = np.linalg.svd(parts[0] - mean, full_matrices=False)[2][:64].T
        parts = [(x - mean) @ axes for x in parts]
    wanted = ct_by_definition(parts[2], parts[1], parts[0], [cells[0], cells[1], cells[2]])
    assert copying(made, real, train) == pytest.approx(wanted)
    assert copying(made, real, train, seed=1) == pytest.approx(wanted), "wherever k-means begins"


# Errors


def test_sets_that_tell_nothing_are_refused(unchecked):
    train, real, made = three(60, 4, seed=0), three(60, 4, seed=1), three(60, 4, seed=2)
    with pytest.raises(ValueError, match="generated features have 4 numbers and real ones 3"):
        auth_percent(generated=made, train=train[:, :3])
    with pytest.raises(ValueError, match="too few real images, 1; give 2 or more"):
        auth_percent(generated=made, train=train[:1])
    with pytest.raises(ValueError, match="real features hold NaN"):
        copying(made, real, train * torch.nan)
    with pytest.raises(ValueError, match="has 0 held-out and .* give more held-out images"):
        copying(made, real[:3], train)
    with pytest.raises(ValueError, match="no cell has more than 20 of 12 generated images"):
        copying(made[:12], real, train)
    with pytest.raises(ValueError, match="fewer than 3 different features"):
        copying(made, real, train[:1].repeat(30, 1))
