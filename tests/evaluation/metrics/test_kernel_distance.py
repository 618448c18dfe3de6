import numpy as np
import pytest
import torch

from robustok.evaluation.metrics import kernel_distance as module
from robustok.evaluation.metrics.kernel_distance import kernel_distance


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_mmd_of_two_points_each():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])

    def k(a, b):
        return (a * b + 1) ** 3

    within = k(0, 1) + k(2, 3)
    across = (k(0, 2) + k(0, 3) + k(1, 2) + k(1, 3)) / 4
    assert kernel_distance(generated=x, real=y) == pytest.approx(within - 2 * across)


def test_kid_of_the_accepted_evaluators(parity):
    _, io = parity("fid_reference")
    generated, real = io["features_gen"], io["features_ref"]
    whole = kernel_distance(generated=generated[:300], real=real[:300])
    for name in ("kid_fixed_subset", "mmd_dgm_fixed_subset"):
        assert whole == pytest.approx(io[name].item(), rel=1e-6)
    draws = np.random.RandomState(2020)
    values = []
    for _ in range(20):
        a, b = draws.choice(600, 100, replace=False), draws.choice(500, 100, replace=False)
        values.append(kernel_distance(generated=generated[a], real=real[b]))
    assert np.mean(values) == pytest.approx(io["kid_mean"].item(), rel=1e-6)
    assert np.std(values) == pytest.approx(io["kid_std"].item(), rel=1e-6)


def test_equal_distributions_are_at_zero_on_average():
    distances = [kernel_distance(generated=cloud(50, seed=2 * i), real=cloud(50, seed=2 * i + 1)) for i in range(40)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / 40**0.5


def test_rows_in_memory_do_not_matter(monkeypatch):
    at_once = kernel_distance(generated=cloud(50), real=cloud(40, seed=1))
    monkeypatch.setattr(module, "ROWS", 7)
    in_parts = kernel_distance(generated=cloud(50), real=cloud(40, seed=1))
    assert in_parts == pytest.approx(at_once, rel=1e-9)


def test_refuses_what_has_no_distance(unchecked):
    with pytest.raises(ValueError, match="too few real images, 1; give 2 or more"):
        kernel_distance(generated=cloud(9), real=cloud(1))
    with pytest.raises(ValueError, match="generated features hold NaN"):
        kernel_distance(generated=cloud(9) * torch.inf, real=cloud(9))
    with pytest.raises(ValueError, match="generated features have 5 numbers and real ones 6"):
        kernel_distance(generated=cloud(9)[:, :5], real=cloud(9))
