"""How well one score predicts another over several models: Pearson's and Spearman's r, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Numbers], Numbers]


class Estimate(NamedTuple):
    """A value and the interval that it lies in."""

    value: float
    low: float
    high: float


def pearson(x: Numbers, y: Numbers) -> Numbers:
    """Pearson's r over the last axis, -1 to 1; NaN where one of the two does not vary."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    norm = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), norm, out=np.full_like(norm, np.nan), where=norm > 0)


def spearman(x: Numbers, y: Numbers) -> Numbers:
    """Spearman's r over the last axis: Pearson's r of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Numbers) -> Numbers:
    """The rank of each value along the last axis, from 1; equal values share the mean of theirs. For few values."""
    mine, others = values[..., :, None], values[..., None, :]
    return (others < mine).sum(axis=-1) + ((others == mine).sum(axis=-1) + 1) / 2


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Numbers], count: int, *, level: float = 0.95, rounds: int = 4000
) -> Estimate:
    """A statistic of `count` models and its percentile interval over resampled models (Efron 1979).

    `statistic` takes indices of models (..., count) and gives a value for each row. Rows for which it is NaN (the
    same model again and again, say) are left out. Raises ValueError for less than three models, where an interval
    would mean nothing.
    """
    if count < 3:
        raise ValueError(f"an interval over models takes at least three of them, not {count}; train more")
    values = statistic(np.random.default_rng(0).integers(count, size=(rounds, count)))
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(np.arange(count)[None])[0]), float(low), float(high))


def correlation(statistic: Statistic, x: Sequence[float], y: Sequence[float], *, level: float = 0.95) -> Estimate:
    """`pearson` or `spearman` of x and y over models, with its bootstrap interval."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a correlation takes two lists of one length, not {a.shape} and {b.shape}; pair the scores")
    return bootstrap(lambda chosen: statistic(a[chosen], b[chosen]), len(a), level=level)
