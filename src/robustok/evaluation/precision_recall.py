"""Precision and recall, density and coverage: is what was generated real, and is all that is real generated?

Both look at balls around images in feature space that reach to the k-th nearest image of the same set.
Distances are squared and in float64. Time grows with the square of the number of images, memory linearly.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from robustok.evaluation.wording import counted, ordinal
from robustok.shapes import Features

Generated: TypeAlias = Float[Tensor, "generated f"]
Real: TypeAlias = Float[Tensor, "real f"]
ROWS = 2000  # of a distance matrix in memory at once


class PrecisionRecall(NamedTuple):
    precision: float  # share of the generated images inside the real set
    recall: float  # share of the real images inside the generated set


class DensityCoverage(NamedTuple):
    density: float  # real balls that a generated image lies in, over k; may exceed 1
    coverage: float  # share of the real balls that hold a generated image


def precision_recall(
    *, generated: Generated, real: Real, k: int = 3, strict: bool = False, half: bool = False
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    An image is inside a set when it lies in the ball of any of its images. A point on a ball's surface lies
    in it, as in ADM's evaluator and torch-fidelity, unless `strict`, as in PRDC. Exchanging the sets exchanges
    precision and recall.

    `half` rounds as ADM's evaluator does, to float16 (see `_half_distances`). Published values carry that rounding,
    which is no reason to repeat it: its 11 bits are 5e-4 of the squared norms, not of the distances, so an image near
    a surface may fall to either side. The shares then move by up to 0.02, either way.
    """
    _check(generated, real, k, k)
    return PrecisionRecall(
        precision=_share(_inside(generated, real, k, strict, half)),
        recall=_share(_inside(real, generated, k, strict, half)),
    )


def density_coverage(*, generated: Generated, real: Real, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4): balls around real images only."""
    _check(generated, real, 0, k)
    radii = _radii(real, k)
    balls = 0
    covered = []
    for rows, radius in zip(real.split(ROWS), radii.split(ROWS), strict=True):
        within = _distances(rows, generated) < radius[:, None]
        balls += int(within.sum())
        covered.append(within.any(dim=1))
    return DensityCoverage(density=balls / (k * len(generated)), coverage=_share(torch.cat(covered)))


def _inside(
    points: Float[Tensor, "b f"], of: Float[Tensor, "other f"], k: int, strict: bool, half: bool
) -> Bool[Tensor, " b"]:
    """Which points lie in the ball of any image of the set."""
    radii = _half_radii(of, k) if half else _radii(of, k)
    inside = []
    for rows in points.split(ROWS):
        distances = (_half_distances if half else _distances)(rows, of)
        inside.append((distances < radii if strict else distances <= radii).any(dim=1))
    return torch.cat(inside)


def _radii(features: Features, k: int) -> Float64[Tensor, " b"]:
    """Squared distance of each image to the k-th nearest other one of its set."""
    return torch.cat(list(_rows_of_radii(features, k)))


def _rows_of_radii(features: Features, k: int) -> Iterator[Tensor]:
    for start in range(0, len(features), ROWS):
        distances = _distances(features[start : start + ROWS], features)
        distances.diagonal(start).fill_(torch.inf)  # the image itself is none of its neighbours
        yield distances.kthvalue(k, dim=1).values


def _distances(a: Float[Tensor, "a f"], b: Float[Tensor, "b f"]) -> Float64[Tensor, "a b"]:
    """Squared Euclidean distances."""
    a, b = a.double(), b.double()
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)


def _half_radii(features: Features, k: int) -> Float[Tensor, " b"]:
    """As ADM finds them: the k-th after the smallest distance, since rounding may not leave 0 to the image itself."""
    return torch.cat([_half_distances(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(ROWS)])


def _half_distances(a: Float[Tensor, "a f"], b: Float[Tensor, "b f"]) -> Float[Tensor, "a b"]:
    """Squared distances of which every intermediate result is a float16, or of float32 where one overflows.

    ADM's evaluator computes |a|^2 - 2 a'b + |b|^2 from features cast to float16. In which order a GPU adds up the
    products is not known, so its values are met within their rounding only; here sums are in float32, then rounded.
    """
    u, v = (features.half().float() for features in (a, b))
    norms = [features.square().half().float().sum(dim=1).half() for features in (u, v)]
    rounded = norms[0][:, None] - 2 * (u @ v.T).half() + norms[1]
    return (rounded.float() if rounded.isfinite().all() else _distances(a.float(), b.float()).float()).clamp_min_(0)


def _share(hits: Bool[Tensor, " b"]) -> float:
    return float(hits.double().mean())


def _check(generated: Generated, real: Real, of_generated: int, of_real: int) -> None:
    """Raises ValueError where a set has not as many neighbours as it is asked for, and for features that are no use."""
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated features have {generated.shape[1]} numbers and real ones {real.shape[1]}; "
            "compute both with the same extractor"
        )
    for name, features, k in (("generated", generated, of_generated), ("real", real, of_real)):
        if len(features) <= k:
            some = counted(len(features), f"{name} image")
            missing = f"no {ordinal(k)} nearest neighbour" if k else "none"
            raise ValueError(f"there is {missing} among {some}; give {k + 1} or more")
        if not features.isfinite().all():
            raise ValueError(f"{name} features hold NaN or infinity; look for broken images")
        if k and (features == features[0]).all():
            raise ValueError(f"all {len(features)} {name} images have the same features; look at them first")
