"""Frechet distance between the features of two sets of images (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

Statistics are kept in float64 and add up, so that neither the batch size nor the order nor the number of
processes shows in a score, and memory does not grow with the number of images.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Features

EPSILON = torch.finfo(torch.float64).eps
ROUNDING = torch.finfo(torch.float32).eps
BLOCK = 256  # rows and columns of a triangular matrix that are multiplied at once


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Number, mean and scatter (sum of squared deviations from the mean) of feature vectors, float64, on the CPU.

    Statistics that somebody published may not say of how many images they are; `count` is then 0, and `scatter`
    the covariance itself.
    """

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

    @classmethod
    def published(cls, mean: Tensor, covariance: Tensor, count: int = 0) -> "FeatureStats":
        """Statistics that were computed elsewhere. Raises ValueError for what cannot be a mean and a covariance."""
        mean, covariance = mean.double(), covariance.double()
        check_moments(mean, covariance)
        return cls(count, mean, (covariance + covariance.T) / 2 * max(1, count - 1))

    def __add__(self, other: "FeatureStats") -> "FeatureStats":
        """The statistics of both sets together (Chan et al. 1979)."""
        check_one_space(self, other)
        if not (self.count and other.count):
            raise ValueError("statistics of an unknown number of images cannot be merged; compute them from the images")
        count = self.count + other.count
        gap = other.mean - self.mean
        between = (self.count * other.count / count * gap).outer(gap)
        return FeatureStats(count, self.mean + other.count / count * gap, (self.scatter + other.scatter).add_(between))

    @property
    def covariance(self) -> Float64[Tensor, "f f"]:
        """The unbiased covariance. Raises ValueError for one image, and for images that are all the same."""
        if self.count == 1:
            raise ValueError("one image has no covariance; score at least two, better some thousands")
        covariance = self.scatter / (self.count - 1) if self.count else self.scatter
        if covariance.trace() <= 1e-12 * self.mean.square().sum():  # float32 features round to 1e-14
            of = f"all {self.count} images" if self.count else "all images"
            raise ValueError(
                f"{of} have the same features; the images are constant, "
                "or the model has collapsed: look at them before you score them"
            )
        return covariance

    @cached_property
    def factor(self) -> Float64[Tensor, "f f"] | None:
        """The lower triangular L with L L' = covariance, or None where the covariance is singular to rounding."""
        return None if 0 < self.count <= len(self.mean) else _cholesky(self.covariance)

    @cached_property
    def root(self) -> Float64[Tensor, "f rank"]:
        """An R with R R' = covariance and as many columns as the covariance has rank.

        Raises ValueError for a matrix that is far from positive semidefinite, and so no covariance: by more than the
        rounding of float32, in which some keep theirs.
        """
        if self.factor is not None:
            return self.factor
        covariance = self.covariance
        if 2 * self.count <= len(self.mean) and (few := _root_of_rank(covariance, self.count - 1)) is not None:
            return few
        values, vectors = eigh(covariance)
        if values[0] < -len(values) * ROUNDING * values[-1].abs():
            raise ValueError(
                f"the covariance has a variance of {float(values[0]):.3g} along one axis and {float(values[-1]):.3g} "
                "along another; none is negative, so it is no covariance: compute the statistics again"
            )
        kept = values > len(values) * EPSILON * values[-1]
        return vectors[:, kept] * values[kept].sqrt()


def check_moments(mean: Tensor, covariance: Tensor) -> None:
    """Raises ValueError for what cannot be a mean and a covariance, or a multiple of one."""
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"a mean of shape {tuple(mean.shape)} and a covariance of shape {tuple(covariance.shape)} do not "
            "belong together; wanted (f,) and (f, f)"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError("the statistics hold NaN or infinity; compute them again from the images")
    if (covariance.diagonal() < 0).any():
        raise ValueError("the covariance has a negative variance, so it is none; compute the statistics again")
    if (covariance - covariance.T).abs().max() > 1e-5 * covariance.abs().max():  # some were kept in float32
        raise ValueError("the covariance is not symmetric, so it is none; compute the statistics again")


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the covariances A and B; never negative.

    The trace of the root is the sum of the singular values of R' S, for any R R' = A and S S' = B. With
    Cholesky factors R and S these are the roots of the eigenvalues of a positive matrix, real by construction
    and more than ten times faster than a matrix square root. Statistics keep their factor, so a reference is
    factored once. Singular covariances (fewer images than features, dead features) get their factors from an
    eigendecomposition, cut to its rank.

    Raises ValueError for statistics of less than two images, of constant images, of two feature spaces, or with NaN.
    """
    check_one_space(a, b)
    shift = (a.mean - b.mean).square().sum()
    one, other = a.covariance, b.covariance
    # A feature that never varies in one of the sets adds nothing to the root, but would make it singular.
    alive = (one.diagonal() > 0) & (other.diagonal() > 0)
    if alive.all():
        lowers = (a.factor, b.factor)
    else:
        lowers = (_cholesky(one[alive][:, alive]), _cholesky(other[alive][:, alive]))
    if lowers[0] is not None and lowers[1] is not None:
        root_trace = torch.linalg.eigvalsh(_gram(lowers[0], lowers[1])).clamp_min(0).sqrt().sum()
    else:
        root_trace = torch.linalg.svdvals(a.root.T @ b.root).sum()
    distance = float(shift + one.trace() + other.trace() - 2 * root_trace)
    if not math.isfinite(distance):  # which max would call 0
        raise ValueError(
            f"the Frechet distance came out as {distance}; look for NaN and for huge features on either side"
        )
    return max(0.0, distance)


def eigh(matrix: Float64[Tensor, "f f"]) -> tuple[Float64[Tensor, " f"], Float64[Tensor, "f f"]]:
    """Eigenvalues, the smallest first, and eigenvectors of a symmetric matrix, of low rank, too.

    The solver may give up on one that is zero nearly everywhere; turned around it is another problem with one answer.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.flip(0, 1))
        vectors = vectors.flip(0)
    return values, vectors


def _gram(r: Float64[Tensor, "f f"], s: Float64[Tensor, "f f"]) -> Float64[Tensor, "f f"]:
    """The lower triangle of P P' for P = R' S with R and S lower triangular; above it anything.

    Block by block, without the halves that are zero or not asked for: 5/3 f^3 operations rather than 4 f^3.
    """
    product, gram = torch.empty_like(r), torch.empty_like(r)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(r), BLOCK)]
    for rows in blocks:
        for columns in blocks:
            below = slice(max(rows.start, columns.start), None)
            product[rows, columns] = r[below, rows].T @ s[below, columns]
    for rows in blocks:
        gram[rows, : rows.stop] = product[rows] @ product[: rows.stop].T
    return gram


def _root_of_rank(covariance: Float64[Tensor, "f f"], rank: int) -> Float64[Tensor, "f rank"] | None:
    """An R with R R' = covariance, from the span of the covariance times random vectors (Halko et al. 2011, alg. 5.3).

    A few images span few directions, and a decomposition of these takes a small part of the time of all. None where
    the covariance has a greater rank than it is said to have, or a negative variance.
    """
    some = torch.Generator().manual_seed(0)
    draws = torch.randn(len(covariance), rank + 10, generator=some, dtype=torch.float64)
    basis = torch.linalg.qr(covariance @ draws).Q
    values, vectors = eigh(basis.T @ covariance @ basis)
    rounding = len(covariance) * EPSILON
    if (covariance.trace() - values.sum()).abs() > rounding * covariance.trace() or values[0] < -rounding * values[-1]:
        return None
    kept = values > rounding * values[-1]
    return basis @ (vectors[:, kept] * values[kept].sqrt())


def _cholesky(covariance: Float64[Tensor, "f f"]) -> Float64[Tensor, "f f"] | None:
    """The lower triangular L with L L' = covariance, or None where the covariance is singular to rounding."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed or not len(lower):
        return None
    floor = len(lower) * EPSILON * covariance.diagonal().max()
    return None if (lower.diagonal().square() <= floor).any() else lower


def check_one_space(a: FeatureStats, b: FeatureStats) -> None:
    """Raises ValueError for statistics of features of two lengths, which no one extractor makes."""
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared: they come from two "
            "extractors; compute both with the same one"
        )
