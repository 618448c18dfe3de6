"""Frechet distance between the features of two sets of images (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

Statistics are kept in float64 and add up, so that neither the batch size nor the order nor the number of
processes shows in a score, and memory does not grow with the number of images.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Features

EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Number, mean and scatter (sum of squared deviations from the mean) of feature vectors, float64, on the CPU."""

    count: int
    mean: Float64[Tensor, " f"]
    scatter: Float64[Tensor, "f f"]

    @classmethod
    def of(cls, features: Features) -> "FeatureStats":
        """The statistics of a batch. Raises ValueError for an empty batch and for NaN or infinity."""
        if len(features) == 0:
            raise ValueError("there are no features to take statistics of; give at least one image")
        bad = int((~features.isfinite().all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"the features of {bad} of {len(features)} images hold NaN or infinity; "
                "look for broken images and for half-precision overflow in the extractor"
            )
        features = features.detach().double()
        mean = features.mean(dim=0)
        deviation = features - mean
        return cls(len(features), mean.cpu(), (deviation.T @ deviation).cpu())

    def __add__(self, other: "FeatureStats") -> "FeatureStats":
        """The statistics of both sets together (Chan et al. 1979)."""
        if len(self.mean) != len(other.mean):
            raise ValueError(_other_space(self, other))
        count = self.count + other.count
        gap = other.mean - self.mean
        between = (self.count * other.count / count * gap).outer(gap)
        return FeatureStats(count, self.mean + other.count / count * gap, (self.scatter + other.scatter).add_(between))

    @cached_property
    def covariance(self) -> Float64[Tensor, "f f"]:
        """The unbiased covariance. Raises ValueError for one image, and for images that are all the same."""
        if self.count < 2:
            raise ValueError("one image has no covariance; score at least two, better some thousands")
        covariance = self.scatter / (self.count - 1)
        if covariance.trace() <= 1e-12 * self.mean.square().sum():  # float32 features round to 1e-14
            raise ValueError(
                f"all {self.count} images have the same features; the images are constant, "
                "or the model has collapsed: look at them before you score them"
            )
        return covariance

    @cached_property
    def root(self) -> Float64[Tensor, "f rank"]:
        """An R with R R' = covariance and as many columns as the covariance has rank."""
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > len(values) * EPSILON * values[-1]
        return vectors[:, kept] * values[kept].sqrt()


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the covariances A and B; never negative.

    The trace of the root is the sum of the singular values of R' S, for any R R' = A and S S' = B. With
    Cholesky factors R and S these are the roots of the eigenvalues of a positive matrix, real by construction
    and ten times faster than a matrix square root. Singular covariances (fewer images than features, dead
    features) get their factors from an eigendecomposition, cut to its rank.

    Raises ValueError for statistics of less than two images, of constant images, or of two feature spaces.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(_other_space(a, b))
    shift = (a.mean - b.mean).square().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    # A feature that never varies in one of the sets adds nothing to the root, but would make it singular.
    alive = (a.covariance.diagonal() > 0) & (b.covariance.diagonal() > 0)
    parts = (c if alive.all() else c[alive][:, alive] for c in (a.covariance, b.covariance))
    lower_a, lower_b = map(_cholesky, parts)
    if lower_a is not None and lower_b is not None:
        product = lower_a.T @ lower_b
        singular_values = torch.linalg.eigvalsh(product @ product.T).clamp_min(0).sqrt()
    else:
        singular_values = torch.linalg.svdvals(a.root.T @ b.root)
    return max(0.0, float(shift + spread - 2 * singular_values.sum()))


def _cholesky(covariance: Float64[Tensor, "f f"]) -> Float64[Tensor, "f f"] | None:
    """The lower triangular L with L L' = covariance, or None where the covariance is singular to rounding."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed or not len(lower):
        return None
    floor = len(lower) * EPSILON * covariance.diagonal().max()
    return None if (lower.diagonal().square() <= floor).any() else lower


def _other_space(a: FeatureStats, b: FeatureStats) -> str:
    return (
        f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared: they come from two "
        "extractors; compute both with the same one"
    )
