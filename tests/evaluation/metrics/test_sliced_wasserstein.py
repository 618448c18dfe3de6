import numpy as np
import pytest
import torch

from robustok.evaluation.metrics.sliced_wasserstein import mind, wasserstein_squared


def cloud(count: int, seed: int = 0, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_numbers_on_a_line():
    a, b = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[1.0, 5.0]]).double()
    assert wasserstein_squared(a, b).item() == (1 + 4) / 2  # 0 -> 1, 3 -> 5
    # Of three against two: thirds of 0, 3, 6 against halves of 0, 6. 0 stays, 3 goes half each way, 6 stays.
    three, two = torch.tensor([[6.0, 0.0, 3.0]]).double(), torch.tensor([[0.0, 6.0]]).double()
    assert wasserstein_squared(three, two).item() == pytest.approx(9 / 3)


def test_sets_of_unequal_size_are_as_their_repetitions():
    a, b = cloud(4, width=6).T.double(), cloud(6, seed=1, width=6).T.double()
    repeated = wasserstein_squared(a.repeat(1, 3), b.repeat(1, 2))  # the same distributions, 12 images each
    torch.testing.assert_close(wasserstein_squared(a, b), repeated)
    torch.testing.assert_close(wasserstein_squared(b, a), repeated)


def test_a_shift_counts_three_times_its_square():
    x, shift = cloud(50, width=40), 0.5 * cloud(1, seed=1, width=40)
    value = mind(generated=x + shift, real=x, directions=20_000, generator=numbers())
    # The mean of (u'v)^2 over directions is |v|^2 / f; its relative error from 20,000 of them is 1 %.
    assert value == pytest.approx(3 * shift.square().sum().item(), rel=0.05)


def test_the_published_formula():
    """(3 f / (n M)) sum_i sum_j (sort(u_i'x)_j - sort(u_i'y)_j)^2, in numpy."""
    x, y = cloud(80), 1.5 * cloud(80, seed=1) + 0.3
    u = torch.randn(1000, 6, generator=numbers(), dtype=torch.float64).numpy()
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    gaps = np.sort(u @ x.double().numpy().T, axis=1) - np.sort(u @ y.double().numpy().T, axis=1)
    wanted = 3 * 6 / (80 * 1000) * (gaps**2).sum()
    assert mind(generated=x, real=y, generator=numbers()) == pytest.approx(wanted, rel=1e-12)


def test_order_and_sides_do_not_matter():
    x, y = cloud(80), cloud(60, seed=1) + 0.3
    value = mind(generated=x, real=y, generator=numbers())
    assert mind(generated=y.flip(0), real=x.flip(0), generator=numbers()) == pytest.approx(value, rel=1e-12)
    assert mind(generated=x, real=x.flip(0), generator=numbers()) == pytest.approx(0, abs=1e-12)


def test_sees_what_a_frechet_distance_does_not():
    flat = torch.rand(4000, 1, generator=numbers()) * 12**0.5 - 3**0.5  # mean 0, variance 1, but no Gaussian
    assert mind(generated=flat, real=cloud(4000, width=1), directions=1, generator=numbers()) > 0.1


def test_refuses_what_has_no_distance(unchecked):
    with pytest.raises(ValueError, match="too few generated images, 1; give 2 or more"):
        mind(generated=cloud(1), real=cloud(9), generator=numbers())
    with pytest.raises(ValueError, match="real features hold NaN"):
        mind(generated=cloud(9), real=cloud(9) * torch.nan, generator=numbers())
    with pytest.raises(ValueError, match="generated features have 5 numbers and real ones 6"):
        mind(generated=cloud(9)[:, :5], real=cloud(9), generator=numbers())
    with pytest.raises(ValueError, match="directions is 0; give at least 1"):
        mind(generated=cloud(9), real=cloud(9), directions=0, generator=numbers())
