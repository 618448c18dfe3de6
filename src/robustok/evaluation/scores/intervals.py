"""Intervals: how far a Frechet distance would move if other images had been drawn.

Resampling images with repetition leaves fewer distinct ones, which makes every resampled Frechet distance
larger than the one in question: 97 instead of 57 for 2,000 images and 1,280 features. So intervals come from
each image's influence on the distance (the infinitesimal jackknife, Efron 1982, ch. 6): to first order the
distance is a mean over images, and a mean's error is known. It costs one eigendecomposition, needs no random
numbers, and pairs image by image. Among sets of other 2,000 images that distance had a standard deviation of
1.2; the influences of single sets said 1.4 to 1.7. The interval is of the distance of as many images as there
are, which lies above that of infinitely many.

The bootstrap (see `benchmarks/correlation.py`) is for what does not mind a row that comes twice: means, quantiles,
correlations. It is wrong for distances, recall, coverage and the use of codes, which all see a poorer set.
"""

import math
from typing import NamedTuple

from jaxtyping import Float, Float64
from torch import Tensor

from robustok.evaluation.metrics.fid import EPSILON, FeatureStats, check_one_space, eigh
from robustok.shapes import Features

NORMAL_95 = 1.959964  # standard errors to either side that cover 95 % of a normal distribution
STUDENT_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)  # 1 to 9 degrees

Interval = tuple[float, float]
Influence = Float64[Tensor, " b"]


class Influences(NamedTuple):
    """Contributions of each image to a Frechet distance beyond the average image's, on either side."""

    a: Float64[Tensor, " a"]
    b: Float64[Tensor, " b"]


def influence(
    a: FeatureStats,
    b: FeatureStats,
    features_a: Float[Tensor, "a f"],
    features_b: Float[Tensor, "b f"],
) -> Influences:
    """The influence of images with the given features on `frechet_distance(a, b)`.

    With the covariances A = R R' and B the distance changes with b's mean by 2 (mean b - mean a), with B by
    I - T, where T = R (R' B R)^(-1/2) R' is the map that carries b's images to a's (Gelbrich 1990). An image x
    of b thus moves it by 2 (mean b - mean a)'(x - mean b) + (x - mean b)'(I - T)(x - mean b), up to a
    constant; likewise for a, with the inverse map B R (R' B R)^(-3/2) R' B.

    Raises ValueError for statistics of two feature spaces.
    """
    check_one_space(a, b)
    across = a.root.T @ b.root
    if across.shape[0] <= across.shape[1]:
        values, vectors = eigh(across @ across.T)
    else:  # the same from the side of fewer directions
        values, vectors = eigh(across.T @ across)
        vectors = across @ (vectors / values.clamp_min(EPSILON * values[-1]).sqrt())
    kept = values > len(values) * EPSILON * values[-1].clamp_min(0)
    values, vectors = values[kept], a.root @ vectors[:, kept]

    def moves(features: Features, own: FeatureStats, other: FeatureStats, half_map: Tensor) -> Influence:
        deviation = features.double() - own.mean
        influences = (
            2 * deviation @ (own.mean - other.mean)
            + deviation.square().sum(dim=1)
            - (deviation @ half_map).square().sum(dim=1)
        )
        return influences - influences.mean()

    return Influences(
        moves(features_a, a, b, b.covariance @ vectors / values**0.75),
        moves(features_b, b, a, vectors / values**0.25),
    )


def mean_interval(value: float, contributions: Influence, count: int | None = None) -> Interval:
    """95 % interval of a mean over `count` images, from some images' contributions to it.

    Raises ValueError for less than two contributions.
    """
    if len(contributions) < 2:
        raise ValueError("an interval takes at least two images")
    error = NORMAL_95 * float(contributions.std()) / math.sqrt(count or len(contributions))
    return value - error, value + error


def fraction_interval(fraction: float, count: int) -> Interval:
    """95 % interval of a fraction of `count` images, also where it is none or all of them (Wilson 1927)."""
    square = NORMAL_95**2
    center = (fraction + square / (2 * count)) / (1 + square / count)
    error = NORMAL_95 * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count**2)) / (1 + square / count)
    return center - error, center + error


def seeds_interval(values: list[float]) -> tuple[float, Interval]:
    """Mean of one score over seeds, and its 95 % interval by Student's t. Raises ValueError for one seed."""
    mean, squared = _mean_and_error(values)
    error = _student_95(len(values) - 1) * math.sqrt(squared)
    return mean, (mean - error, mean + error)


def two_samples_interval(before: list[float], after: list[float]) -> Interval:
    """95 % interval of how much greater the mean over the seeds of `after` is.

    By Student's t with the degrees of freedom of Welch (1947), rounded down: each side has its own deviation. A
    side of one seed is taken to deviate like the other one. Raises ValueError for one seed on both.
    """
    one, other = len(before), len(after)
    if min(one, other) == 1 < max(one, other):
        _, squared = _mean_and_error(max(before, after, key=len))
        degrees, squared = max(one, other) - 1, squared * (max(one, other) + 1)
    else:
        (_, a), (_, b) = _mean_and_error(before), _mean_and_error(after)
        inverse = a**2 / (one - 1) + b**2 / (other - 1)
        degrees = math.floor((a + b) ** 2 / inverse + 1e-9) if inverse else one + other - 2
        squared = a + b
    change = math.fsum(after) / other - math.fsum(before) / one
    error = _student_95(max(1, degrees)) * math.sqrt(squared)
    return change - error, change + error


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean over seeds, and the square of its standard error."""
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} seed says nothing about the deviation over seeds; run at least two, better three")
    mean = math.fsum(values) / n
    return mean, math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n


def _student_95(degrees: int) -> float:
    """Student's 97.5 % quantile (from 10 degrees of freedom on: Abramowitz & Stegun, 26.7.5)."""
    if degrees <= len(STUDENT_95):
        return STUDENT_95[degrees - 1]
    z = NORMAL_95
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))
