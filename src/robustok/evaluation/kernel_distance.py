"""Maximum mean discrepancy between two sets of features (Gretton et al. 2012): KID and CMMD."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor

from robustok.evaluation.wording import counted

Generated: TypeAlias = Float[Tensor, "generated f"]
Real: TypeAlias = Float[Tensor, "real f"]
Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (a f), (b f) -> (a b)

ROWS = 2000  # of a kernel matrix in memory at once


class KID(NamedTuple):
    mean: float  # over the subsets
    std: float  # between the subsets


def cubic(x: Float64[Tensor, "a f"], y: Float64[Tensor, "b f"]) -> Float64[Tensor, "a b"]:
    """(x'y / f + 1)^3, the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""

    def kernel(x: Float64[Tensor, "a f"], y: Float64[Tensor, "b f"]) -> Float64[Tensor, "a b"]:
        squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T
        return torch.exp(-squares.clamp_min(0) / (2 * sigma**2))

    return kernel


def mmd(*, generated: Generated, real: Real, kernel: Kernel = cubic, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012, eq. 3; with `unbiased` no pair of an image with itself).

    The unbiased estimate is zero on average for equal distributions, so it may be negative.
    """
    _check(generated, real)
    x, y = generated.double(), real.double()
    within = [_kernel_sum(z, z, kernel, diagonal=not unbiased) for z in (x, y)]
    m, n = len(x), len(y)
    pairs = (m * (m - 1), n * (n - 1)) if unbiased else (m * m, n * n)
    return within[0] / pairs[0] + within[1] / pairs[1] - 2 * _kernel_sum(x, y, kernel) / (m * n)


def kid(
    *,
    generated: Generated,
    real: Real,
    subsets: int = 100,
    subset_size: int = 1000,
    generator: Generator,
) -> KID:
    """Kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401): unbiased cubic MMD of random subsets."""
    _check(generated, real)
    smaller = min(len(generated), len(real))
    if subset_size > smaller:
        raise ValueError(f"subsets of {subset_size} images need as many on both sides; there are {smaller}")

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:subset_size]]

    values = torch.tensor(
        [mmd(generated=some(generated), real=some(real)) for _ in range(subsets)], dtype=torch.float64
    )
    return KID(float(values.mean()), float(values.std(correction=0)))


def cmmd(*, generated: Generated, real: Real, sigma: float = 10.0) -> float:
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603): 1000 times the Gaussian MMD of unit-length features.

    Meant for CLIP embeddings. The biased estimate, as in the authors' code.
    """
    unit = [features.double() for features in (generated, real)]
    unit = [features / features.norm(dim=1, keepdim=True) for features in unit]
    return 1000 * mmd(generated=unit[0], real=unit[1], kernel=gaussian(sigma), unbiased=False)


def _kernel_sum(x: Tensor, y: Tensor, kernel: Kernel, diagonal: bool = True) -> float:
    parts = []
    for start in range(0, len(x), ROWS):
        values = kernel(x[start : start + ROWS], y)
        if not diagonal:
            values.diagonal(start).zero_()
        parts.append(float(values.sum()))
    return math.fsum(parts)


def _check(generated: Generated, real: Real) -> None:
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated features have {generated.shape[1]} numbers and real ones {real.shape[1]}; "
            "compute both with the same extractor"
        )
    for name, features in (("generated", generated), ("real", real)):
        if len(features) < 2:
            raise ValueError(f"there are no distances among {counted(len(features), f'{name} image')}; give 2 or more")
        if not features.isfinite().all():
            raise ValueError(f"{name} features hold NaN or infinity; look for broken images")
