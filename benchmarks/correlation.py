"""How well scores predict another over several models: Pearson's and Spearman's r, and errors on models left out.

All with bootstrap intervals over models.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Numbers], Numbers]
ROUNDS = 4000  # of a bootstrap


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
    statistic: Callable[[NDArray[np.int64]], Numbers], count: int, *, level: float = 0.95, rounds: int = ROUNDS
) -> Estimate:
    """A statistic of `count` models and its percentile interval over resampled models (Efron 1979).

    `statistic` takes indices of models (..., count) and gives a value for each row. Rows for which it is NaN (the
    same model again and again, say) are left out; where all are, the interval is NaN. Raises ValueError for less than
    three models, where an interval would mean nothing.
    """
    if count < 3:
        raise ValueError(f"an interval over models takes at least three of them, not {count}; train more")
    values = statistic(np.random.default_rng(0).integers(count, size=(rounds, count)))
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2]) if len(finite) else (np.nan, np.nan)
    return Estimate(float(statistic(np.arange(count)[None])[0]), float(low), float(high))


def correlation(
    statistic: Statistic, x: Sequence[float], y: Sequence[float], *, level: float = 0.95, rounds: int = ROUNDS
) -> Estimate:
    """`pearson` or `spearman` of x and y over models, with its bootstrap interval."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a correlation takes two lists of one length, not {a.shape} and {b.shape}; pair the scores")
    return bootstrap(lambda chosen: statistic(a[chosen], b[chosen]), len(a), level=level, rounds=rounds)


def left_out(
    columns: Sequence[Sequence[float]],
    target: Sequence[float],
    weights: Numbers | None = None,
    kin: Sequence[str] | None = None,
) -> Numbers:
    """The target of each model as a least squares fit to the others says it, one for each row of weights (..., count).

    The fit is linear in the columns, with a constant; without columns it is the mean of the others. A model's weight is
    how often it is there: all of its copies are left out with it, so that a resample does not predict a model from
    itself. `kin` names of each what it is related by: those of its name are left out with it, too. NaN where the others
    do not determine the fit.
    """
    y = np.asarray(target, dtype=np.float64)
    x = np.stack([np.ones(len(y)), *(standardized(np.asarray(c, dtype=np.float64)) for c in columns)], axis=1)
    w = np.ones(len(y)) if weights is None else weights
    related = np.eye(len(y)) if kin is None else np.equal.outer(np.asarray(kin), np.asarray(kin))
    others = w[..., None, :] * (1 - related)  # (..., left out, model)
    p = x.shape[1]
    normal = (others @ (x[:, :, None] * x[:, None, :]).reshape(-1, p * p)).reshape(*others.shape[:-1], p, p)
    diagonal = normal.diagonal(axis1=-2, axis2=-1).prod(axis=-1)
    known = np.linalg.det(normal) > 1e-9 * diagonal  # Hadamard: at most equal, and 0 where columns depend on each other
    fit = np.linalg.solve(np.where(known[..., None, None], normal, np.eye(p)), (others @ (x * y[:, None]))[..., None])
    return np.where(known, (fit[..., 0] * x).sum(axis=-1), np.nan)


def standardized(values: Numbers) -> Numbers:
    """Mean 0, variance 1, which changes no linear fit, but how exactly it is computed."""
    return (values - values.mean()) / (values.std() or 1.0)


def left_out_ratio(
    columns: Sequence[Sequence[float]],
    target: Sequence[float],
    *,
    kin: Sequence[str] | None = None,
    level: float = 0.95,
    rounds: int = ROUNDS,
) -> Estimate:
    """Root mean square error of `left_out`'s predictions, over that of the mean of the others: 1 knows nothing.

    Models that are `kin` are left out, and drawn for the interval, together. Raises ValueError for less than three
    models or kinds of these, or where columns and target differ in length.
    """
    y = np.asarray(target, dtype=np.float64)
    if any(len(column) != len(y) for column in columns):
        raise ValueError(
            f"a prediction takes columns of the target's {len(y)} models, not {[len(c) for c in columns]}; pair them"
        )

    names = list(range(len(y))) if kin is None else list(dict.fromkeys(kin))
    kind, kinds = np.array([names.index(own) for own in (kin or names)]), len(names)

    def ratio(chosen: NDArray[np.int64]) -> Numbers:
        drawn = (chosen[..., None] == np.arange(kinds)).sum(axis=-2).astype(np.float64)
        weights = drawn[..., kind]

        def error(predicted: Numbers) -> Numbers:
            there = np.where(weights > 0, weights * (predicted - y) ** 2, 0.0)
            return np.sqrt(there.sum(axis=-1) / weights.sum(axis=-1))

        by_mean = error(left_out([], target, weights, kin))
        return np.divide(
            error(left_out(columns, target, weights, kin)),
            by_mean,
            out=np.full_like(by_mean, np.nan),
            where=by_mean > 0,
        )

    return bootstrap(ratio, kinds, level=level, rounds=rounds)
