"""The differentiable Frechet distance against scipy, closed forms and difference quotients."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from robustok.losses.frechet import FrechetLoss, frechet_loss, relative, square_root


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(dim=0), torch.cov(features.T, correction=0)


def by_scipy(a: Tensor, b: Tensor) -> float:
    (mean, covariance), (other_mean, other_covariance) = moments(a), moments(b)
    root = scipy.linalg.sqrtm((covariance @ other_covariance).numpy()).real
    spread = covariance.trace() + other_covariance.trace() - 2 * root.trace()
    return ((mean - other_mean).square().sum() + spread).item()


def test_value_is_that_of_scipy():
    features, reference = noise(64, 12), 0.5 + noise(80, 12, seed=1) @ noise(12, 12, seed=2)
    loss = FrechetLoss(*moments(reference))
    assert loss(features).item() == pytest.approx(by_scipy(features, reference), rel=1e-8)


def test_normal_distributions_on_a_line():
    mean, variance = torch.tensor([1.0]), torch.tensor([[4.0]])
    other_mean, other_root = torch.tensor([-2.0]), torch.tensor([[5.0]])
    distance = frechet_loss(mean, variance, other_mean, other_root)
    assert distance.item() == pytest.approx(3**2 + (5 - 2) ** 2)


def test_equal_moments_are_at_distance_zero():
    features = noise(50, 8)
    assert FrechetLoss(*moments(features))(features).item() == pytest.approx(0, abs=1e-12)


def test_gradient_is_that_of_differences():
    reference, earlier = noise(40, 4, seed=1) @ noise(4, 4, seed=2), noise(20, 4, seed=3)

    def distance(features: Tensor) -> Tensor:
        loss = FrechetLoss(*moments(reference), decay=0.25)
        loss(earlier)
        return loss(features)

    assert torch.autograd.gradcheck(distance, noise(10, 4).requires_grad_())


@pytest.mark.parametrize("rows", [1, 2, 5])  # fewer rows than features: a singular covariance
def test_value_and_gradient_of_a_singular_covariance(rows: int):
    features = noise(rows, 8).requires_grad_()
    mean, variance = torch.linspace(-1, 1, 8).double(), torch.tensor(2.25).double()
    distance = FrechetLoss(mean, variance * torch.eye(8).double())(features)
    # the root of s^2 C is s times the root of C, which the singular values of the centered features give
    center = features.mean(dim=0)
    spread = torch.linalg.svdvals((features - center).detach()) / rows**0.5
    wanted = (center - mean).square().sum() + spread.square().sum() + 8 * variance - 2 * variance.sqrt() * spread.sum()
    assert distance.item() == pytest.approx(wanted.item(), rel=1e-6)
    distance.backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().sum() > 0


def test_the_average_starts_as_that_of_all_features_seen():
    loss = FrechetLoss(*moments(noise(50, 6, seed=9)))
    batches = [noise(16, 6, seed=seed) for seed in range(4)]
    for batch in batches:
        distance = loss(batch)
    assert distance.item() == pytest.approx(by_scipy(torch.cat(batches), noise(50, 6, seed=9)), rel=1e-8)


def test_the_average_forgets_at_the_given_rate():
    loss = FrechetLoss(torch.zeros(1), torch.ones(1, 1), decay=0.5)
    for value, mean in ((4.0, 4.0), (0.0, 2.0), (6.0, 4.0), (0.0, 2.0)):
        loss(torch.tensor([[value]]))
        assert loss.mean.item() == pytest.approx(mean)


def test_gradient_comes_through_the_share_of_the_batch_at_hand():
    reference = moments(noise(50, 6, seed=9))
    features = noise(16, 6).requires_grad_()
    alone, averaged = FrechetLoss(*reference, decay=0.9), FrechetLoss(*reference, decay=0.9)
    for _ in range(20):
        averaged(features.detach())  # the same moments, long enough for the share to be 1 - decay
    (whole,) = torch.autograd.grad(alone(features), features)
    (share,) = torch.autograd.grad(averaged(features), features)
    torch.testing.assert_close(share, 0.1 * whole)


def test_descent_moves_features_to_the_reference_distribution():
    reference = 2 + noise(200, 5, seed=1) @ noise(5, 5, seed=2)
    features = noise(64, 5).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.1)
    for _ in range(80):
        distance = FrechetLoss(*moments(reference))(features)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    assert by_scipy(features.detach(), reference) < 0.01


def test_a_batch_that_is_not_finite_shows_in_the_distance_and_leaves_no_trace():
    loss = FrechetLoss(*moments(noise(50, 6, seed=9)))
    loss(noise(16, 6))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert loss(noise(16, 6).index_fill(0, torch.tensor([3]), math.nan)).isnan()
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    assert loss(noise(16, 6, seed=1)).isfinite()


@pytest.mark.parametrize("cut", [[8, 8], [5, 5, 6], [1, 15]])
def test_a_batch_in_parts_moves_the_average_once(cut: list[int]):
    """As the whole batch does, and each part's gradient, by its share, is the batch's where the value is the same."""
    reference = moments(noise(50, 6, seed=9))
    whole, parts = FrechetLoss(*reference, decay=0.5), FrechetLoss(*reference, decay=0.5)
    for step in range(4):
        features = noise(16, 6, seed=step).requires_grad_()
        distance = whole(features)
        for number, part in enumerate(features.split(cut)):
            so_far = parts(part, first=number == 0)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value, msg=name)
    torch.testing.assert_close(so_far, distance)
    (want,) = torch.autograd.grad(distance, features)
    (got,) = torch.autograd.grad(so_far, features)
    torch.testing.assert_close(cut[-1] / 16 * got[-cut[-1] :], want[-cut[-1] :])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_part_that_is_not_finite_leaves_no_trace_of_its_batch(bad: int):
    loss = FrechetLoss(*moments(noise(50, 6, seed=9)))
    loss(noise(16, 6))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    for number in range(2):
        loss(noise(16, 6) * (math.nan if number == bad else 1.0), first=number == 0)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_autocast_changes_nothing():
    mean, covariance = (moment.float() for moment in moments(noise(50, 6, seed=9)))
    loss, plain, features = FrechetLoss(mean, covariance), FrechetLoss(mean, covariance), noise(16, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        within = loss(features)
    assert torch.equal(within, plain(features))


def test_stopping_and_resuming_changes_nothing():
    reference = moments(noise(50, 6, seed=9))
    straight, resumed = FrechetLoss(*reference), FrechetLoss(*reference)
    straight(noise(16, 6))
    resumed.load_state_dict(straight.state_dict())
    assert torch.equal(straight(noise(16, 6, seed=1)), resumed(noise(16, 6, seed=1)))


def test_square_root_squares_to_the_covariance_and_ignores_rounding_below_zero():
    covariance = moments(noise(30, 6))[1]
    root = square_root(covariance)
    torch.testing.assert_close(root @ root, covariance)
    assert torch.equal(root, root.T) or torch.allclose(root, root.T)
    assert square_root(torch.diag(torch.tensor([4.0, -1e-9]))).isfinite().all()


def test_relative_distances_are_near_one_and_share_the_gradient_out():
    distance = torch.tensor(4.0, requires_grad=True)
    value = relative(distance)
    value.backward()
    assert value.item() == pytest.approx(4 / 4.01)
    assert distance.grad.item() == pytest.approx(1 / 4.01)


def test_a_decay_that_never_forgets_is_refused():
    with pytest.raises(ValueError, match="decay is 1.0, but an average needs one in"):
        FrechetLoss(torch.zeros(2), torch.eye(2), decay=1.0)
