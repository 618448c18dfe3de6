import math

import numpy as np
import pytest
import torch

from robustok.evaluation import kernel_distance as module
from robustok.evaluation.kernel_distance import cmmd, gaussian, kid, mmd


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_mmd_of_two_points_each():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])

    def k(a, b):
        return (a * b + 1) ** 3

    within = k(0, 1) + k(2, 3)
    across = (k(0, 2) + k(0, 3) + k(1, 2) + k(1, 3)) / 4
    assert mmd(generated=x, real=y) == pytest.approx(within - 2 * across)
    own = (k(0, 0) + k(1, 1) + 2 * k(0, 1)) / 4 + (k(2, 2) + k(3, 3) + 2 * k(2, 3)) / 4
    assert mmd(generated=x, real=y, unbiased=False) == pytest.approx(own - 2 * across)


def test_kid_of_the_accepted_evaluators(parity):
    _, io = parity("fid_reference")
    generated, real = io["features_gen"], io["features_ref"]
    whole = mmd(generated=generated[:300], real=real[:300])
    for name in ("kid_fixed_subset", "mmd_dgm_fixed_subset"):
        assert whole == pytest.approx(io[name].item(), rel=1e-6)
    draws = np.random.RandomState(2020)
    values = []
    for _ in range(20):
        a, b = draws.choice(600, 100, replace=False), draws.choice(500, 100, replace=False)
        values.append(mmd(generated=generated[a], real=real[b]))
    assert np.mean(values) == pytest.approx(io["kid_mean"].item(), rel=1e-6)
    assert np.std(values) == pytest.approx(io["kid_std"].item(), rel=1e-6)


def test_kid_is_zero_on_average_for_equal_distributions():
    mean, std = kid(
        generated=cloud(400),
        real=cloud(400, seed=1),
        subsets=40,
        subset_size=50,
        generator=torch.Generator().manual_seed(0),
    )
    assert abs(mean) < 3 * std
    assert std > 0


def test_subsets_that_are_the_whole_set_are_all_alike():
    mean, std = kid(
        generated=cloud(30),
        real=cloud(30, seed=1) + 1,
        subsets=3,
        subset_size=30,
        generator=torch.Generator().manual_seed(0),
    )
    assert mean == pytest.approx(mmd(generated=cloud(30), real=cloud(30, seed=1) + 1))
    assert std == pytest.approx(0, abs=1e-9)


def test_cmmd_of_opposite_directions():
    x, y = torch.tensor([[2.0, 0.0], [5.0, 0.0]]), torch.tensor([[-1.0, 0.0], [-3.0, 0.0]])
    assert cmmd(generated=x, real=y) == pytest.approx(1000 * 2 * (1 - math.exp(-(2**2) / (2 * 10**2))))


def test_rows_in_memory_do_not_matter(monkeypatch):
    at_once = mmd(generated=cloud(50), real=cloud(40, seed=1), kernel=gaussian(2.0))
    monkeypatch.setattr(module, "ROWS", 7)
    in_parts = mmd(generated=cloud(50), real=cloud(40, seed=1), kernel=gaussian(2.0))
    assert in_parts == pytest.approx(at_once, rel=1e-9)


def test_refuses_what_has_no_distance(unchecked):
    numbers = torch.Generator()
    with pytest.raises(ValueError, match="subsets of 1000 images need as many on both sides; there are 40"):
        kid(generated=cloud(50), real=cloud(40), generator=numbers)
    with pytest.raises(ValueError, match="there are no distances among 1 real image; give 2 or more"):
        mmd(generated=cloud(9), real=cloud(1))
    with pytest.raises(ValueError, match="generated features hold NaN"):
        mmd(generated=cloud(9) * torch.inf, real=cloud(9))
    with pytest.raises(ValueError, match="generated features have 5 numbers and real ones 6"):
        cmmd(generated=cloud(9)[:, :5], real=cloud(9))
