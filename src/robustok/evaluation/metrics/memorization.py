"""Memorization: does a generator copy the images that it was trained on?

AuthPct (Alaa et al. 2022, arXiv 2102.08921) and C_T (Meehan et al. 2020, arXiv 2004.05675), as dgm-eval defines them
(Stein et al. 2023, arXiv 2306.04675). Both ask how near generated images come to training images, so they need the
features of all of these: copies of those that are left out go unseen. Distances are Euclidean and in float64.
"""

import math
from functools import reduce
from operator import add

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from robustok.evaluation.metrics.checks import Generated, Real, check_sets
from robustok.evaluation.metrics.fid import FeatureStats, eigh
from robustok.evaluation.metrics.precision_recall import ROWS, squared_distances

CELLS, COMPONENTS, LEAST = 3, 64, 20  # of C_T, as dgm-eval has them
STARTS, ROUNDS = 10, 300  # of k-means: tries, of which the best is taken, and steps of each at most

Points = Float[Tensor, "b f"]
Train = Float[Tensor, "train f"]


def auth_percent(*, generated: Generated, train: Real) -> float:
    """AuthPct: the percentage of generated images that are authentic, from 0, where all are copies.

    An image is authentic when it is farther from its nearest training image than that is from its own nearest other
    training image (Alaa et al. 2022, as dgm-eval's `compute_authpct`; a tie is not authentic). Of images that are
    drawn as the training images were, a third is authentic in one dimension and more in many (8 in 10 of Gaussian ones
    in 64), so compare with what held-out images have. Raises ValueError for two spaces, NaN, no generated and less than
    two training images.
    """
    check_sets(generated, train, least=(1, 2))
    own = nearest(generated, train)
    met, back = own.unique(return_inverse=True)
    radius = _apart(train[met], train[nearest(train[met], train, own=met)])
    return 100 * float((radius[back] < _apart(generated, train[own])).double().mean())


def data_copying(*, generated: Generated, held_out: Points, train: Train, generator: Generator) -> float:
    """C_T: standard errors by which generated images are farther from the training images than held-out images are.

    About 0 where they are as far, below -3 where they copy, above 3 where they underfit. As dgm-eval's
    `compute_CTscore`: features of more than 64 numbers are projected to their 64 principal components over the training
    images; k-means over these makes 3 cells; in each a Mann-Whitney test compares the distances of generated and of
    held-out images to the nearest training image of the cell, and its Z is weighted with the fraction of held-out
    images. Cells of 20 generated images or fewer do not count. With generated and training images exchanged it is that
    paper's modified C_T, which sees memorization alone.

    k-means begins from places that `generator` draws (k-means++, the best of 10), where dgm-eval leaves the draw to
    chance, and the components are exact, where scikit-learn may approximate them. The value grows with the square root
    of the number of images, so compare equal numbers only. Raises ValueError for two spaces, NaN, and cells without
    held-out images.
    """
    check_sets(generated, train, least=(1, CELLS))
    check_sets(held_out, train, least=(1, CELLS))
    sets = [train, held_out, generated]
    if train.shape[1] > COMPONENTS:
        stats = reduce(add, map(FeatureStats.of, train.split(ROWS)))
        axes = eigh(stats.covariance)[1][:, -COMPONENTS:].to(train.device)
        mean = stats.mean.to(train.device)
        sets = [torch.cat([(part.double() - mean) @ axes for part in some.split(ROWS)]) for some in sets]
    centers = k_means(sets[0], CELLS, generator=generator)
    cells = [squared_distances(some, centers).argmin(dim=1) for some in sets]
    total = weight = 0.0
    for cell in range(CELLS):
        own, real, made = (some[at == cell] for some, at in zip(sets, cells, strict=True))
        if not (len(own) and len(real)):
            raise ValueError(
                f"one of the {CELLS} cells of the features has {len(real)} held-out and {len(own)} training images; "
                "give more held-out images, of the kind that was trained on"
            )
        if len(made) > LEAST:
            far = (_apart(some, own[nearest(some, own)]) for some in (made, real))
            total, weight = total + len(real) * mann_whitney(*far), weight + len(real)
    if not weight:
        raise ValueError(f"no cell has more than {LEAST} of {len(generated)} generated images; give some hundreds")
    return total / weight


def nearest(points: Points, of: Train, *, own: Int[Tensor, " b"] | None = None) -> Int[Tensor, " b"]:
    """The index of each point's nearest of the others; `own` are the points' own indices among these, left out."""
    found = []
    for start in range(0, len(points), ROWS):
        rows = points[start : start + ROWS]
        best, index = rows.new_full((len(rows),), torch.inf).double(), torch.zeros_like(rows[:, 0], dtype=torch.int64)
        for first in range(0, len(of), ROWS):
            squares = squared_distances(rows, of[first : first + ROWS])
            if own is not None:
                at = own[start : start + ROWS] - first
                here = (at >= 0) & (at < squares.shape[1])
                squares[here, at[here]] = torch.inf
            values, places = squares.min(dim=1)
            closer = values < best
            best, index = torch.where(closer, values, best), torch.where(closer, places + first, index)
        found.append(index)
    return torch.cat(found)


def mann_whitney(made: Float[Tensor, " m"], real: Float[Tensor, " n"]) -> float:
    """Z of Mann and Whitney's U (1947): below 0 where the first numbers are the smaller ones; ties count half.

    The standard error is that without ties, and 1/2 is added for continuity, as in Meehan et al.'s code.
    """
    m, n, order = len(made), len(real), real.sort().values
    u = sum(float(torch.searchsorted(order, made, right=right).double().sum()) for right in (False, True)) / 2
    return (u - n * m / 2 + 0.5) / math.sqrt(n * m * (n + m + 1) / 12)


def k_means(points: Train, count: int, *, generator: Generator) -> Float[Tensor, "count f"]:
    """Centers of the best of 10 tries of Lloyd's algorithm, from k-means++ (Arthur and Vassilvitskii 2007).

    Raises ValueError for fewer different points than centers.
    """
    points = points.double()
    best, least = points[:count], math.inf
    for _ in range(STARTS):
        centers = points[torch.randint(len(points), (1,), generator=generator)]
        while len(centers) < count:
            far = squared_distances(points, centers).amin(dim=1).cumsum(0)
            if not far[-1] > 0:
                raise ValueError(f"the training images have fewer than {count} different features; look at them first")
            place = (far > far[-1] * torch.rand(1, generator=generator).item()).nonzero()[0]
            centers = torch.cat([centers, points[place]])
        last = None
        for _ in range(ROUNDS):
            squares, cell = squared_distances(points, centers).min(dim=1)
            if last is not None and torch.equal(cell, last):
                break
            sums = torch.zeros_like(centers).index_add_(0, cell, points)
            counts = cell.bincount(minlength=count)[:, None]
            centers, last = torch.where(counts > 0, sums / counts.clamp_min(1), centers), cell
        if float(squares.sum()) < least:
            best, least = centers, float(squares.sum())
    return best


def _apart(a: Points, b: Points) -> Tensor:
    """Squared distances pair by pair, which of equal ones are exactly 0."""
    parts = zip(a.split(ROWS), b.split(ROWS), strict=True)
    return torch.cat([(x.double() - y.double()).square().sum(dim=1) for x, y in parts])
