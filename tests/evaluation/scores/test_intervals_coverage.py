"""95 % intervals hold the truth in 90 to 99 % of 200 simulated cases: a wrong error of a third falls outside."""

import math
from collections.abc import Iterator

import pytest
import torch

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.difference import paired_difference, score_difference, seeds_difference
from robustok.evaluation.scores.feature_stream import FeatureStream
from robustok.evaluation.scores.intervals import (
    Interval,
    fraction_interval,
    influence,
    mean_interval,
    seeds_interval,
    two_samples_interval,
)
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score

CASES, IMAGES, WIDTH = 200, 200, 3
SPACE = {"features": "cloud"}


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL = draws(2000, WIDTH)
REFERENCE = Reference(stats=FeatureStats.of(REAL), sample=REAL[:100].float(), images={}, space=SPACE)


def coverage(intervals: list[Interval], truth: float) -> float:
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def systems(seed: int, shift: float) -> Iterator[torch.Tensor]:
    """The features of a generator's images, drawn anew for each case, a little off the real ones."""
    yield from 1.3 * draws(CASES, IMAGES, WIDTH, seed=seed) + shift


def stream(features: torch.Tensor) -> FeatureStream:
    made = FeatureStream(SPACE)
    made.add(features.float())
    return made


def one_score(features: torch.Tensor) -> Score:
    stats = FeatureStats.of(features)
    value = frechet_distance(REFERENCE.stats, stats)
    interval = mean_interval(value, influence(REFERENCE.stats, stats, REFERENCE.sample, features).b)
    return Score(metric="gfid", value=value, interval=interval, images=IMAGES, protocol={})


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


@pytest.fixture(scope="module")
def scored() -> tuple[list[Score], list[Score]]:
    """The scores of two systems in every case. Their mean is the truth, for as many images."""
    one, other = ([one_score(features) for features in systems(seed, shift)] for seed, shift in ((1, 0.3), (2, 0.4)))
    return one, other


def test_interval_of_a_distance_over_images(scored):
    truth = mean([score.value for score in scored[0]])
    assert 0.9 <= coverage([score.interval for score in scored[0]], truth) <= 0.99


def test_difference_of_two_scores_with_intervals(scored):
    found = [score_difference([one], [other]) for one, other in zip(*scored, strict=True)]
    assert {(difference.over, difference.paired) for difference in found} == {("images", False)}
    truth = mean([difference.value for difference in found])
    assert truth > 0.1
    assert 0.9 <= coverage([difference.interval for difference in found], truth) <= 0.99


def test_difference_of_two_decoders_on_the_same_tokens():
    found = []
    for case, tokens in enumerate(systems(3, 0.3)):
        after = 0.98 * tokens + 0.1 * draws(IMAGES, WIDTH, seed=case)
        found.append(paired_difference(stream(tokens), stream(after), REFERENCE))
    truth = mean([difference.value for difference in found])
    assert 0.9 <= coverage([difference.interval for difference in found], truth) <= 0.99


@pytest.mark.parametrize("share", [0.01, 0.3, 0.97])
def test_interval_of_a_share(share):
    hits = torch.rand(1000, IMAGES, generator=torch.Generator().manual_seed(0)) < share
    found = [fraction_interval(float(row.double().mean()), IMAGES) for row in hits]
    assert 0.9 <= coverage(found, share) <= 0.99


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds(seeds):
    runs = (10 + draws(CASES, seeds, seed=4)).tolist()
    assert 0.9 <= coverage([seeds_interval(values)[1] for values in runs], 10) <= 0.99
    others = (9 + 2 * draws(CASES, seeds + 1, seed=5)).tolist()
    apart = [two_samples_interval(one, other) for one, other in zip(runs, others, strict=True)]
    assert 0.9 <= coverage(apart, -1) <= 0.99 + 0.01 * (seeds == 2)  # one degree of freedom, rounded down: wide


def test_paired_seeds():
    runs = 10 + 5 * draws(CASES, 3, seed=4)
    others = runs - 1 + 0.1 * draws(CASES, 3, seed=5)
    found = [seeds_difference(one, other).interval for one, other in zip(runs.tolist(), others.tolist(), strict=True)]
    assert 0.9 <= coverage(found, -1) <= 0.99
    assert mean([high - low for low, high in found]) < 1  # what the seeds share, a spread of 5, has gone


def test_a_single_run_against_several():
    runs, single = 10 + draws(CASES, 4, seed=4), 9 + draws(CASES, 1, seed=5)
    found = [two_samples_interval(one, other) for one, other in zip(runs.tolist(), single.tolist(), strict=True)]
    assert 0.9 <= coverage(found, -1) <= 0.99
    found = [two_samples_interval(other, one) for one, other in zip(runs.tolist(), single.tolist(), strict=True)]
    assert 0.9 <= coverage(found, 1) <= 0.99
