"""MIND, the Monge Inception distance (Berthet et al. 2026, arXiv 2605.06797): a sliced Wasserstein distance.

Where a Frechet distance sees two moments, this one sees the whole distribution along every direction, and needs
thousands of images rather than tens of thousands.
"""

import torch
from jaxtyping import Float64
from torch import Generator, Tensor

from robustok.evaluation.metrics.checks import Generated, Real, check_sets

DIRECTIONS = 1000
AT_ONCE = 100  # directions whose projections are in memory


def mind(*, generated: Generated, real: Real, directions: int = DIRECTIONS, generator: Generator) -> float:
    """3 f times the mean over random directions of the squared Wasserstein distance between the projections.

    The factor makes a shift by v count 3 |v|^2. Directions are uniform on the sphere, drawn on the CPU from
    `generator`. Sets of unequal size are compared by their quantile functions, and so whole; the authors' code and
    torch-fidelity draw as many images from the larger set as the smaller one has. Values fall as the sets grow, so
    compare those of equal sizes only. Raises ValueError for two spaces, NaN and fewer than two images.
    """
    check_sets(generated, real)
    if directions < 1:
        raise ValueError(f"directions is {directions}; give at least 1, better 1000")
    width = real.shape[1]
    axes = torch.randn(directions, width, generator=generator, dtype=torch.float64)
    axes = (axes / axes.norm(dim=1, keepdim=True)).to(real.device)
    squares = [wasserstein_squared(part @ generated.double().T, part @ real.double().T) for part in axes.split(AT_ONCE)]
    return 3 * width * float(torch.cat(squares).mean())


def wasserstein_squared(a: Float64[Tensor, "m a"], b: Float64[Tensor, "m b"]) -> Float64[Tensor, " m"]:
    """Squared 2-Wasserstein distance between numbers, row by row: of the quantile functions, in closed form."""
    a, b = a.sort(dim=1).values, b.sort(dim=1).values
    n, other = a.shape[1], b.shape[1]
    if n == other:
        return (a - b).square().mean(dim=1)
    # In units of 1 / (n other): image i of the one set fills [i other, (i + 1) other), of the other [j n, (j + 1) n).
    steps = torch.arange(1, n + 1) * other, torch.arange(1, other + 1) * n
    ends = torch.cat(steps).unique()
    widths = ends.diff(prepend=ends.new_zeros(1)).to(a)
    last = (ends - 1).to(a.device)
    return ((a[:, last // other] - b[:, last // n]).square() * widths).sum(dim=1) / (n * other)
