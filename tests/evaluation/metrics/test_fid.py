from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.linalg
import torch

from robustok.evaluation.metrics import fid as module
from robustok.evaluation.metrics.fid import FeatureStats, eigh, frechet_distance

MIX = torch.randn(64, 64, generator=torch.Generator().manual_seed(9)) / 8


def features(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) @ MIX[:width, :width] + 0.5


def by_matrix_root(a: torch.Tensor, b: torch.Tensor) -> float:
    """The textbook formula, by scipy's matrix square root."""
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root.real))


def test_frechet_distance_of_two_cubes():
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)  # mean 0, covariance 16/15 I
    a, b = FeatureStats.of(cube), FeatureStats.of(3 + 2 * cube)
    assert frechet_distance(a, b) == pytest.approx(4 * (3**2 + 16 / 15))


def test_agrees_with_the_matrix_square_root():
    a, b = features(300, 64), features(200, 64, seed=1) * 1.5
    distance = frechet_distance(FeatureStats.of(a), FeatureStats.of(b))
    assert distance == pytest.approx(by_matrix_root(a, b), rel=1e-9)


def test_values_of_the_accepted_evaluators(parity):
    _, io = parity("fid_reference")
    real, generated = FeatureStats.of(io["features_ref"]), FeatureStats.of(io["features_gen"])
    torch.testing.assert_close(real.mean, io["mu_ref"].double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(real.covariance, io["sigma_ref"], rtol=1e-5, atol=1e-6)
    for name in ("fid_adm", "fid_torch_fidelity", "fd_dgm_efficient"):
        assert frechet_distance(generated, real) == pytest.approx(io[name].item(), rel=1e-6)
    few = FeatureStats.of(io["features_gen"][:45]), FeatureStats.of(io["features_ref"][:40])
    for name in ("fid_rank_deficient_torch_fidelity", "fid_rank_deficient_dgm_efficient"):
        assert frechet_distance(*few) == pytest.approx(io[name].item(), rel=1e-6)


@pytest.mark.parametrize("sizes", [(1,) * 60, (59, 1), (7,) * 8 + (4,), (20, 20, 20)])
def test_neither_batches_nor_order_change_statistics(sizes):
    whole = features(60) + 100  # far from 0, where naive sums of squares lose digits
    shuffled = whole[torch.randperm(60, generator=torch.Generator().manual_seed(2))]
    merged = reduce(add, (FeatureStats.of(part) for part in shuffled.split(sizes)))
    once = FeatureStats.of(whole)
    assert merged.count == 60
    torch.testing.assert_close(merged.mean, once.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.scatter, once.scatter, rtol=1e-9, atol=1e-9)
    other = FeatureStats.of(features(60, seed=3))
    assert frechet_distance(merged, other) == pytest.approx(frechet_distance(once, other), rel=1e-9)


def test_symmetric_and_zero_for_the_same_images():
    a, b = FeatureStats.of(features(50)), FeatureStats.of(features(70, seed=1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert 0 <= frechet_distance(a, a) < 1e-10


def test_fewer_images_than_features():
    a, b = features(20, 64), features(30, 64, seed=1)
    distance = frechet_distance(FeatureStats.of(a), FeatureStats.of(b))
    x, y = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    # The root's trace from the images themselves: singular values of the cross products, no covariance.
    root = torch.linalg.svdvals(x @ y.T).sum() / (19 * 29) ** 0.5
    spread = x.square().sum() / 19 + y.square().sum() / 29
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum()
    assert distance == pytest.approx(float(shift + spread - 2 * root), rel=1e-9)


def test_the_root_of_a_few_images_covariance_takes_no_whole_decomposition(monkeypatch):
    few = FeatureStats.of(features(20, 64))
    monkeypatch.setattr(module, "eigh", lambda matrix: eigh(matrix) if len(matrix) < 40 else pytest.fail("all of it"))
    assert few.root.shape == (64, 19)
    torch.testing.assert_close(few.root @ few.root.T, few.covariance, rtol=1e-12, atol=1e-14)


def test_a_covariance_of_greater_rank_than_its_number_of_images_allows_is_taken_whole():
    singular = FeatureStats.of(features(50, 64)).covariance
    told = FeatureStats.published(torch.zeros(64), singular, count=20)
    assert told.root.shape == (64, 49)
    torch.testing.assert_close(told.root @ told.root.T, singular, rtol=1e-12, atol=1e-14)


def test_features_that_never_vary_add_their_mean_and_variance():
    a, b = features(90), features(80, seed=1)
    constant, varied = torch.full((90, 1), 2.0), features(80, 1, seed=5)
    grown = frechet_distance(FeatureStats.of(torch.cat([a, constant], 1)), FeatureStats.of(torch.cat([b, varied], 1)))
    added = (varied.double().mean() - 2) ** 2 + varied.double().var()
    without = frechet_distance(FeatureStats.of(a), FeatureStats.of(b))
    # Only the covariances of the last feature with the others are missing here, and those meet a zero row.
    assert grown == pytest.approx(without + float(added), rel=1e-9)


def test_repeated_features_are_scored_once_each():
    a, b = features(90), features(80, seed=1)
    twice = frechet_distance(FeatureStats.of(a.repeat(1, 2)), FeatureStats.of(b.repeat(1, 2)))  # singular
    assert twice == pytest.approx(2 * frechet_distance(FeatureStats.of(a), FeatureStats.of(b)), rel=1e-9)


def test_refuses_what_has_no_distance():
    good = FeatureStats.of(features(20))
    with pytest.raises(ValueError, match="no features .* give at least one image"):
        FeatureStats.of(features(0))
    with pytest.raises(ValueError, match="one image has no covariance; score at least two"):
        frechet_distance(good, FeatureStats.of(features(1)))
    broken = features(5)
    broken[2, 3], broken[4, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 5 images hold NaN or infinity"):
        FeatureStats.of(broken)
    same = FeatureStats.of(features(1).expand(7, -1) * (1 + 1e-7 * torch.rand(7, 1)))  # as float32 rounds
    with pytest.raises(ValueError, match="all 7 images have the same features.*collapsed"):
        frechet_distance(same, good)
    with pytest.raises(ValueError, match="features of 16 and of 8 numbers .* same one"):
        frechet_distance(good, FeatureStats.of(features(20, 8)))
    with pytest.raises(ValueError, match="features of 16 and of 8 numbers"):
        good + FeatureStats.of(features(20, 8))


def test_what_is_no_number_is_no_distance_of_0():
    a = FeatureStats.of(features(60))
    with pytest.raises(ValueError, match="the Frechet distance came out as nan; look for NaN"):
        frechet_distance(a, FeatureStats(60, a.mean * float("nan"), a.scatter))


def test_products_of_triangles_block_by_block(monkeypatch):
    r, s = (torch.linalg.cholesky(FeatureStats.of(features(300, 64, seed)).covariance) for seed in (0, 1))
    plain = r.T @ s @ s.T @ r
    for block in (64, 24, 1000):  # one block, blocks with a rest, one larger than all
        monkeypatch.setattr(module, "BLOCK", block)
        torch.testing.assert_close(module._gram(r, s).tril(), plain.tril(), rtol=1e-12, atol=1e-12)


def test_a_reference_is_factored_once(monkeypatch):
    a, b = FeatureStats.of(features(300, 64)), FeatureStats.of(features(200, 64, seed=1))
    first, seen = frechet_distance(a, b), []
    factor = module._cholesky
    monkeypatch.setattr(module, "_cholesky", lambda covariance: seen.append(1) or factor(covariance))
    again = FeatureStats(b.count, b.mean, b.scatter)
    assert frechet_distance(a, again) == first
    assert len(seen) == 1


def test_one_singular_covariance_is_enough_for_its_rank():
    a, b = features(300, 64), features(20, 64, seed=1)
    distance = frechet_distance(FeatureStats.of(a), FeatureStats.of(b))
    assert distance == pytest.approx(by_matrix_root(a, b), rel=1e-6)  # scipy's root of a singular matrix: 8 digits
    assert distance == pytest.approx(frechet_distance(FeatureStats.of(b), FeatureStats.of(a)), rel=1e-10)


def test_published_statistics_score_as_their_images_do():
    a, b = FeatureStats.of(features(50)), FeatureStats.of(features(70, seed=1))
    for count in (0, 50):
        read = FeatureStats.published(a.mean, a.covariance, count)
        assert read.count == count
        assert frechet_distance(read, b) == pytest.approx(frechet_distance(a, b), rel=1e-12)
    with pytest.raises(ValueError, match="unknown number of images cannot be merged"):
        FeatureStats.published(a.mean, a.covariance) + b


def test_refuses_published_statistics_that_are_none():
    a = FeatureStats.of(features(50))
    with pytest.raises(ValueError, match=r"mean of shape \(8,\) and a covariance of shape \(16, 16\) .* wanted \(f,\)"):
        FeatureStats.published(a.mean[:8], a.covariance)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        FeatureStats.published(a.mean * torch.nan, a.covariance)
    with pytest.raises(ValueError, match="not symmetric"):
        FeatureStats.published(a.mean, a.covariance.triu())
    with pytest.raises(ValueError, match="has a negative variance, so it is none"):
        FeatureStats.published(a.mean, a.covariance - torch.eye(16))


def test_rounding_below_0_is_no_negative_variance():
    """Of fewer images than features, kept in float32: a covariance all the same; one of -1 is none."""
    few, b = FeatureStats.of(features(9)), FeatureStats.of(features(70, seed=1))
    kept = FeatureStats.published(few.mean.float(), few.covariance.float())
    assert torch.linalg.eigvalsh(kept.covariance)[0] < 0
    assert frechet_distance(kept, b) == pytest.approx(frechet_distance(few, b), rel=1e-3)
    values, vectors = torch.linalg.eigh(b.covariance)
    values[0] = -values[-1] / 10
    broken = FeatureStats.published(b.mean, vectors * values @ vectors.T)
    with pytest.raises(ValueError, match=r"a variance of -\S+ along one axis and \S+ along another; none is negative"):
        frechet_distance(broken, b)


def test_two_images_far_apart_from_two_others():
    """One axis each, at right angles: nothing of the covariances is shared."""
    a, b = torch.zeros(2, 4), torch.zeros(2, 4)
    a[1, 0], b[1, 1] = 2.0, 4.0
    distance = frechet_distance(FeatureStats.of(a), FeatureStats.of(b))
    assert distance == pytest.approx(1 + 4 + 2 + 8)  # means (1, 0) and (0, 2), variances 2 and 8


def test_a_solver_that_gives_up_is_asked_another_way(monkeypatch):
    solve, asked = torch.linalg.eigh, []

    def gives_up(matrix):
        asked.append(matrix)
        if len(asked) == 1:
            raise torch.linalg.LinAlgError("failed to converge")
        return solve(matrix)

    covariance = FeatureStats.of(features(50)).covariance
    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    values, vectors = eigh(covariance)
    torch.testing.assert_close(vectors * values @ vectors.T, covariance)
    assert len(asked) == 2
