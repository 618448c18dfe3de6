"""Kernel distance: squared maximum mean discrepancy with KID's kernel (Binkowski et al. 2018, arXiv 1801.01401)."""

import math

from jaxtyping import Float64
from torch import Tensor

from robustok.evaluation.metrics.checks import Generated, Real, check_sets

ROWS = 2000  # of a kernel matrix in memory at once


def kernel_distance(*, generated: Generated, real: Real) -> float:
    """Unbiased squared MMD (Gretton et al. 2012, eq. 3) with the kernel (x'y / f + 1)^3, of the whole sets.

    It is zero on average for equal distributions, so it may be negative. KID as published is the mean of this over
    random subsets. Raises ValueError for two spaces, NaN and fewer than two images.
    """
    check_sets(generated, real)
    x, y = generated.double(), real.double()
    m, n = len(x), len(y)
    within = _kernel_sum(x, x, diagonal=False) / (m * (m - 1)) + _kernel_sum(y, y, diagonal=False) / (n * (n - 1))
    return within - 2 * _kernel_sum(x, y) / (m * n)


def _kernel_sum(x: Float64[Tensor, "a f"], y: Float64[Tensor, "b f"], *, diagonal: bool = True) -> float:
    """The sum over all pairs, `diagonal` says whether of an image with itself, too."""
    parts = []
    for start in range(0, len(x), ROWS):
        values = (x[start : start + ROWS] @ y.T / x.shape[1] + 1) ** 3
        if not diagonal:
            values.diagonal(start).zero_()
        parts.append(float(values.sum()))
    return math.fsum(parts)
