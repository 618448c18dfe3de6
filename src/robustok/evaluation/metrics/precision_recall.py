"""Precision and recall, density and coverage: is what was generated real, and is all that is real generated?

Both look at balls around images in feature space that reach to the k-th nearest image of the same set.
Distances are squared and in float64. Time grows with the square of the number of images, memory linearly.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from robustok.evaluation.metrics.checks import Generated, Real, check_sets
from robustok.shapes import Features

ROWS = 2000  # of a distance matrix in memory at once


class PrecisionRecall(NamedTuple):
    precision: float  # fraction of the generated images inside the real set
    recall: float  # fraction of the real images inside the generated set


class Nearness(NamedTuple):
    outside: Bool[Tensor, " generated"]  # in no real image's ball: 1 - precision is their fraction
    distance: Float64[Tensor, " generated"]  # to the nearest real image, in root mean square over the features
    nearest: Int[Tensor, " generated"]  # index of that real image


class DensityCoverage(NamedTuple):
    density: float  # real balls that a generated image lies in, over k; may exceed 1
    coverage: float  # fraction of the real balls that hold a generated image


def precision_recall(*, generated: Generated, real: Real, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    An image is inside a set when it lies in the ball of any of its images. A point on a ball's surface lies
    in it, as in ADM's evaluator and torch-fidelity, but not in PRDC. Exchanging the sets exchanges
    precision and recall.

    ADM's evaluator rounds distances to float16, which moves the fractions by up to 0.02, either way; these are exact.
    """
    _check(generated, real, k, k)
    return PrecisionRecall(
        precision=_fraction(_inside(generated, real, k)),
        recall=_fraction(_inside(real, generated, k)),
    )


def density_coverage(*, generated: Generated, real: Real, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4): balls around real images only."""
    _check(generated, real, 0, k)
    radii = _radii(real, k)
    balls = 0
    covered = []
    for rows, radius in zip(real.split(ROWS), radii.split(ROWS), strict=True):
        within = squared_distances(rows, generated) < radius[:, None]
        balls += int(within.sum())
        covered.append(within.any(dim=1))
    return DensityCoverage(density=balls / (k * len(generated)), coverage=_fraction(torch.cat(covered)))


def nearness(*, generated: Generated, real: Real, k: int = 3) -> Nearness:
    """Each generated image against the real ones and their balls, which are those of `precision_recall`."""
    _check(generated, real, 0, k)
    radii, outside, distance, nearest = _radii(real, k), [], [], []
    for rows in generated.split(ROWS):
        squares = squared_distances(rows, real)
        outside.append(~(squares <= radii).any(dim=1))
        least = squares.min(dim=1)
        distance.append((least.values / real.shape[1]).sqrt())
        nearest.append(least.indices)
    return Nearness(torch.cat(outside), torch.cat(distance), torch.cat(nearest))


def _inside(points: Float[Tensor, "b f"], of: Float[Tensor, "other f"], k: int) -> Bool[Tensor, " b"]:
    """Points that lie in the ball of any image of the set."""
    radii = _radii(of, k)
    return torch.cat([(squared_distances(rows, of) <= radii).any(dim=1) for rows in points.split(ROWS)])


def _radii(features: Features, k: int) -> Float64[Tensor, " b"]:
    """Squared distance of each image to the k-th nearest other one of its set."""
    radii = []
    for start in range(0, len(features), ROWS):
        distances = squared_distances(features[start : start + ROWS], features)
        distances.diagonal(start).fill_(torch.inf)  # the image itself is none of its neighbors
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def squared_distances(a: Float[Tensor, "a f"], b: Float[Tensor, "b f"]) -> Float64[Tensor, "a b"]:
    """Squared Euclidean distances."""
    a, b = a.double(), b.double()
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)


def _fraction(hits: Bool[Tensor, " b"]) -> float:
    return float(hits.double().mean())


def _check(generated: Generated, real: Real, of_generated: int, of_real: int) -> None:
    """Raises ValueError where a set has not as many neighbors as it is asked for, and for features that are no use."""
    check_sets(generated, real, least=(of_generated + 1, of_real + 1))
    for name, features, k in (("generated", generated, of_generated), ("real", real, of_real)):
        if k and (features == features[0]).all():
            raise ValueError(f"all {len(features)} {name} images have the same features; look at them first")
