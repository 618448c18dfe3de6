"""How well one score predicts another over several models: Pearson's and Spearman's r, with bootstrap intervals."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and the interval that it lies in."""

    value: float
    low: float
    high: float


def pearson(x: Numbers, y: Numbers) -> float:
    """Pearson's r, -1 to 1; NaN where one of the two does not vary."""
    a, b = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (x, y))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def spearman(x: Numbers, y: Numbers) -> float:
    """Spearman's r: Pearson's r of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Numbers) -> NDArray[np.float64]:
    """The rank of each value, from 1; equal values share the mean of theirs."""
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    level: float = 0.95,
    rounds: int = 4000,
    seed: int = 0,
) -> Estimate:
    """A statistic of `count` models, given as their indices, and its percentile interval over resampled models.

    Resamples in which it is not defined (NaN: fewer than two distinct models, say) are left out (Efron 1979).
    Raises ValueError for less than three models, where an interval would mean nothing.
    """
    if count < 3:
        raise ValueError(f"an interval over models takes at least three of them, not {count}; train more")
    draws = np.random.default_rng(seed).integers(count, size=(rounds, count))
    values = np.array([statistic(draw) for draw in draws])
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(statistic(np.arange(count)), float(low), float(high))


def correlation(
    statistic: Callable[[Numbers, Numbers], float], x: Numbers, y: Numbers, *, level: float = 0.95, seed: int = 0
) -> Estimate:
    """`pearson` or `spearman` of x and y over models, with its bootstrap interval."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a correlation takes two lists of one length, not {a.shape} and {b.shape}; pair the scores")
    return bootstrap(lambda chosen: statistic(a[chosen], b[chosen]), len(a), level=level, seed=seed)
