"""How fast the Frechet distance of two 2048-dimensional statistics is, against scipy's matrix square root.

    python benchmarks/frechet_distance.py [THREADS ...]

For each number of threads (1 and 2 unless given) prints seconds, how many times faster ours is, and how far the two
values are apart. "First" factors both covariances; "next" finds the reference's factor already there, as in pFID or
in checks during training. Ours is the median of 5 runs, scipy's a single one. Statistics are of 20,000 feature
vectors whose standard deviations fall over three decades, as those of Inception features do.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import scipy.linalg
import torch
from torch import Generator, Tensor

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance

WIDTH, COUNT, REPEAT = 2048, 20_000, 5


def statistics(seed: int, scale: float) -> FeatureStats:
    """Of features with the same axes for every seed."""
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=Generator().manual_seed(0)).double())[0]
    generator = Generator().manual_seed(seed)
    stats = None
    for _ in range(COUNT // 1000):
        batch = torch.randn(1000, WIDTH, generator=generator).double()
        part = FeatureStats.of(scale * (batch * torch.logspace(0, -3, WIDTH).double()) @ axes.T + seed / 100)
        stats = stats + part if stats else part
    assert stats
    return stats


def fresh(stats: FeatureStats) -> FeatureStats:
    """The same without its factor."""
    return FeatureStats(stats.count, stats.mean, stats.scatter)


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    """How long it took, and what came out."""
    began = time.perf_counter()
    value = run()
    return time.perf_counter() - began, value


def by_matrix_root(a: FeatureStats, b: FeatureStats) -> float:
    """As the usual evaluators compute it."""
    one, other = a.covariance.numpy(), b.covariance.numpy()
    root = scipy.linalg.sqrtm(one @ other)
    shift: Tensor = (a.mean - b.mean).square().sum()
    return float(shift) + float(np.trace(one) + np.trace(other) - 2 * np.trace(root).real)


def measure() -> None:
    """On as many threads as the environment says."""
    a, b = statistics(1, 1.0), statistics(2, 1.1)
    frechet_distance(fresh(a), fresh(b))
    first = [seconds(lambda: frechet_distance(fresh(a), fresh(b))) for _ in range(REPEAT)]
    assert a.factor is not None
    following = [seconds(lambda: frechet_distance(a, fresh(b)))[0] for _ in range(REPEAT)]
    root_seconds, root_value = seconds(lambda: by_matrix_root(a, b))
    ours, value = median(took for took, _ in first), first[0][1]
    print(f"threads {torch.get_num_threads()}: scipy {root_seconds:.2f} s")
    for name, took in (("first", ours), ("next", median(following))):
        print(f"  ours, {name:5s} {took:.2f} s, {root_seconds / took:.1f} x faster")
    print(f"  {value:.9f} against {root_value:.9f}: {abs(value - root_value) / root_value:.1e} relative")


def main() -> None:
    """Each number of threads in a process of its own: libraries read it once, when they load."""
    if sys.argv[1:] == ["--here"]:
        measure()
        return
    for threads in sys.argv[1:] or ["1", "2"]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = [f"{name}={threads}" for name in names]
        subprocess.run(["env", *environment, sys.executable, __file__, "--here"], check=True)


if __name__ == "__main__":
    main()
