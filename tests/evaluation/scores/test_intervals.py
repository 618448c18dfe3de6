import math

import pytest
import scipy.stats
import torch

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.intervals import fraction_interval, influence, mean_interval, seeds_interval


def cloud(count: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + seed


def with_more_of(features: torch.Tensor, image: int, share: float) -> FeatureStats:
    """Statistics of a population of these images, a share of which is replaced by copies of one."""
    weights = torch.full((len(features),), (1 - share) / len(features), dtype=torch.float64)
    weights[image] += share
    mean = weights @ features
    deviation = features - mean
    return FeatureStats(2, mean, deviation.T @ (weights[:, None] * deviation))  # the divisor 2 - 1 leaves it alone


def test_influence_is_the_derivative_with_respect_to_an_images_share():
    a, b, step = cloud(40), cloud(30, seed=1), 1e-5
    population_a, population_b = with_more_of(a, 0, 0), with_more_of(b, 0, 0)
    moved = influence(population_a, population_b, a, b)
    for image in (0, 17):
        up, down = (frechet_distance(with_more_of(a, image, s), population_b) for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(float(moved.a[image]), rel=1e-5)
        up, down = (frechet_distance(population_a, with_more_of(b, image, s)) for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(float(moved.b[image]), rel=1e-5)


def test_features_of_two_lengths_are_of_two_extractors(unchecked):
    a, b = cloud(40), cloud(40, width=2)
    with pytest.raises(ValueError, match="features of 3 and of 2 numbers cannot be compared"):
        influence(FeatureStats.of(a), FeatureStats.of(b), a, b)


def test_error_of_the_distance_between_normal_distributions():
    n = 20_000
    draws = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift, scale = 3.0, 2.0
    b = FeatureStats(n, torch.tensor([shift]).double(), torch.tensor([[scale**2 * (n - 1)]]).double())
    a = FeatureStats(n, torch.zeros(1).double(), torch.tensor([[n - 1.0]]).double())
    value = frechet_distance(a, b)
    assert value == pytest.approx(shift**2 + (scale - 1) ** 2)
    draws = (draws - draws.mean()) / draws.std() * scale + shift
    low, high = mean_interval(value, influence(a, b, draws[:5], draws).b)
    # The mean's error is scale / sqrt(n), the deviation's scale / sqrt(2 n), both independent.
    error = math.hypot(2 * shift * scale, 2 * (scale - 1) * scale / math.sqrt(2)) / math.sqrt(n)
    assert (high - low) / 2 / 1.96 == pytest.approx(error, rel=0.02)
    assert (high + low) / 2 == pytest.approx(value)


def test_error_is_that_of_images_drawn_anew():
    reference = FeatureStats.of(cloud(4000, seed=1))
    drawn = cloud(100 * 400, seed=2).split(400)
    values = torch.tensor([frechet_distance(reference, FeatureStats.of(part)) for part in drawn])
    halves = []
    for part in drawn[:10]:
        low, high = mean_interval(0.0, influence(reference, FeatureStats.of(part), part, part).b)
        halves.append((high - low) / 2)
    # 100 draws know a deviation to 7 %; three times that
    assert sum(halves) / 10 / 1.96 == pytest.approx(float(values.std()), rel=0.2)


def test_fewer_images_than_features():
    a, b = cloud(8, 20), cloud(9, 20, seed=1)
    moved = influence(FeatureStats.of(a), FeatureStats.of(b), a, b)
    assert moved.a.isfinite().all()
    assert moved.b.isfinite().all()
    assert moved.b.abs().max() > 0


def test_influence_of_few_images_on_the_distance_from_many_is_the_same_from_either_side():
    many, few = cloud(90, 20), cloud(9, 20, seed=1)
    a, b = FeatureStats.of(many), FeatureStats.of(few)
    one, other = influence(a, b, many, few), influence(b, a, few, many)
    torch.testing.assert_close(one.a, other.b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.b, other.a, rtol=1e-9, atol=1e-9)


def test_interval_of_a_mean():
    contributions = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    low, high = mean_interval(10, contributions, 100)
    assert (high - low) / 2 == pytest.approx(1.959964 * contributions.std().item() / 10)
    assert (high + low) / 2 == pytest.approx(10)


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (7, 20), (20, 20)])
def test_interval_of_a_share_is_wilsons(hits, count):
    expected = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert fraction_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 11, 30])
def test_interval_over_seeds_is_students(n):
    values = torch.randn(n, generator=torch.Generator().manual_seed(n)).tolist()
    mean, (low, high) = seeds_interval(values)
    error = scipy.stats.sem(values)
    assert (low, high) == pytest.approx(scipy.stats.t.interval(0.95, n - 1, mean, error), rel=1e-4)


def test_refuses_what_has_no_spread():
    with pytest.raises(ValueError, match="at least two images"):
        mean_interval(1.0, torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="1 seed says nothing .* at least two, better three"):
        seeds_interval([1.0])
