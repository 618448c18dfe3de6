"""MMD of latents against exact kernels, perturbations found again, the plane of principal components."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustok.analysis.imitation import imitate, imitation_grid
from robustok.analysis.latent_kernel import Embedded, views
from robustok.analysis.projection import principal_plane
from robustok.evaluation.metrics.pfid import Cell, grid
from robustok.evaluation.scores.halves import halves
from robustok.tokenizer.perturbation import neighbors, perturb


def mmd(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD (Gretton et al. 2012, eq. 3) of as many points on both sides."""
    m = len(x)
    within = [(kernel(z, z).sum() - kernel(z, z).trace()) / (m * (m - 1)) for z in (x, y)]
    return float(sum(within) - 2 * kernel(x, y).mean())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def everything(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def test_the_three_views_are_gaussian_kernels():
    latents, codebook = normal(120, 4, 3), normal(50, 3, seed=1)
    flat, pooled = latents.flatten(1).double(), latents.mean(dim=1).double()
    squares = torch.pdist(codebook.double()).square()
    exact = {
        "image": torch.exp(-torch.cdist(flat, flat).square() / torch.pdist(flat).square().median()),
        "codes": torch.stack(
            [torch.exp(-torch.cdist(z, z).square() / squares.median()) for z in latents.double().unbind(1)]
        ).mean(dim=0),
        "pooled": torch.exp(-torch.cdist(pooled, pooled).square() / torch.pdist(pooled).square().median()),
    }
    for name, view in views(latents, codebook).by_name.items():
        rows = view(latents)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(120))
        # a mean over at least 512 frequencies of cosines, whose standard deviation is at most 1 / sqrt(2)
        assert (rows.double() @ rows.double().T - exact[name]).abs().max() < 5 / math.sqrt(2 * 512)


def test_the_distance_is_the_unbiased_mmd_without_pairs_of_one_place():
    x, y = (view_rows(normal(40, 6, seed=seed) + seed) for seed in range(2))
    a, b = Embedded(x, everything(40)), Embedded(y, everything(40))

    def mean_off_diagonal(kernel: Tensor) -> float:
        return float((kernel.sum() - kernel.trace()) / (40 * 39))

    u, v = x.double(), y.double()
    wanted = mean_off_diagonal(u @ u.T) + mean_off_diagonal(v @ v.T) - 2 * mean_off_diagonal(u @ v.T)
    assert float(a.mmd(b)[0]) == pytest.approx(wanted, abs=1e-6)
    usual = mmd(lambda p, q: p @ q.T, u, v)
    pairs = float((u * v).sum(dim=1).mean() - (u @ v.T).mean())
    assert float(a.mmd(b)[0]) == pytest.approx(usual + 2 * pairs / 39, abs=1e-6)


def view_rows(points: Tensor) -> Tensor:
    return points / points.norm(dim=1, keepdim=True)


def test_random_features_find_the_gaussian_mmd():
    x, y = normal(300, 4, 3), normal(300, 4, 3, seed=1) + 0.3
    view = views(x, normal(20, 3)).by_name["image"]
    width = float(torch.pdist(x.flatten(1).double()).square().median())
    exact = mmd(
        lambda p, q: torch.exp(-torch.cdist(p, q).square() / width), y.double().flatten(1), x.double().flatten(1)
    )
    found = Embedded(view(x), everything(300)).mmd(Embedded(view(y), everything(300)))
    assert float(found[0]) == pytest.approx(exact, rel=0.15)


def test_halves_have_the_distance_of_these_images_alone():
    x, y = (view_rows(normal(60, 5, seed=seed)) for seed in range(2))
    half = halves(60, count=2)
    parts = torch.cat([everything(60), half])
    of_half = Embedded(x, parts).mmd(Embedded(y, parts))[1]
    alone = Embedded(x[half[0]], everything(30)).mmd(Embedded(y[half[0]], everything(30)))[0]
    assert float(of_half) == pytest.approx(float(alone), abs=1e-6)


def test_matched_sets_of_one_distribution_are_at_distance_zero():
    """Two classes far apart, alike in both sets: without leaving out pairs of one place it would come out negative."""
    centers = torch.tensor([[4.0, 0.0], [0.0, 4.0]])[torch.arange(80) % 2][:, None]
    found = []
    for seed in range(20):
        x, y = (centers + normal(80, 1, 2, seed=2 * seed + i) for i in range(2))
        view = views(x, normal(20, 2)).by_name["image"]
        found.append(float(Embedded(view(x), everything(80)).mmd(Embedded(view(y), everything(80)))[0]))
    values = torch.tensor(found)
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(20)


def test_latents_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="no scale to compare"):
        views(torch.zeros(10, 2, 3), normal(20, 3))


def circle() -> Tensor:
    angle = torch.arange(256) / 256 * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos() / 2, (2 * angle).sin() / 2], dim=1)


def world(count: int, seed: int, phases: float) -> Tensor:
    """Tokens (count, 8) of 256 codes on a circle: every image has a phase, up to `phases`, and every place an angle.

    With phases = 1 all codes are as likely in every place, whatever perturbs them.
    """
    phase = phases * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed))
    return ((phase + torch.linspace(0, 0.5, 8)) * 256).long() % 256


CELLS = tuple(Cell(alpha, delta) for alpha in (0.1, 0.4, 0.7, 1.0) for delta in (5, 30, 120))


@pytest.mark.parametrize(("phases", "views"), [(0.3, {"joint", "image", "codes"}), (1.0, {"joint", "image"})])
def test_the_perturbation_that_a_generator_is_comes_out_as_the_nearest(phases, views):
    codebook, truth, count = circle(), Cell(0.7, 120), 300
    near = neighbors(codebook, truth.delta)
    made = perturb(world(count, 3, phases), near, truth.alpha, 1.0, generator=torch.Generator().manual_seed(9))
    targets, seen = {"noisy": made, "clean": world(count, 4, phases)}, []
    found = imitate(
        world(count, 1, phases),
        world(count, 2, phases),
        targets,
        codebook,
        lambda tokens: codebook[tokens],
        cells=CELLS,
        progress=lambda done, total: seen.append((done, total)),
    )
    for view in views:
        target = found.target("noisy", view)
        assert target.best == truth, view
        assert target.ranges[0][0] <= 0.7 <= target.ranges[0][1]
        assert target.ranges[1][0] <= 120 <= target.ranges[1][1]
        assert target.gain_interval[0] > 0, view
        assert target.as_far[CELLS.index(truth)]
        assert found.from_real[view][CELLS.index(Cell(0.1, 5))] < target.to_real / 4
        assert found.target("clean", view).gain_interval[0] < 0  # nothing is nearer than no perturbation
        assert abs(found.floor[view]) < target.to_real / 4
    assert seen[-1] == (count * len(CELLS), count * len(CELLS))


def test_the_grid_holds_pfid_and_more():
    for codes in (2, 16, 1024, 4096, 16384):
        assert set(grid(codes)) <= set(imitation_grid(codes)), codes
    assert len(imitation_grid(4096)) == 80
    assert {cell.delta for cell in imitation_grid(4096)} == {10, 25, 50, 70, 90, 180, 360, 720}


def test_sets_of_other_sizes_are_refused(unchecked):
    codebook = circle()
    with pytest.raises(ValueError, match="real tokens .* give as many"):
        imitate(world(8, 1, 1.0), world(9, 2, 1.0), {}, codebook, lambda t: codebook[t])


def test_the_plane_of_an_ellipse():
    angle = torch.arange(100) / 100 * 2 * math.pi
    axes = torch.linalg.qr(normal(6, 2)).Q
    latents = (3 * angle.cos()[:, None] * axes[:, 0] + angle.sin()[:, None] * axes[:, 1] + 5).view(100, 3, 2)
    plane = principal_plane(latents)
    assert plane.fraction == pytest.approx((0.9, 0.1), abs=1e-5)
    assert (plane.axes.T @ axes.double()).abs().flatten().tolist() == pytest.approx([1, 0, 0, 1], abs=1e-5)
    assert (plane.axes.gather(0, plane.axes.abs().argmax(dim=0, keepdim=True)) > 0).all()
    points = plane.project(latents)
    assert points.square().mean(dim=0).tolist() == pytest.approx([4.5, 0.5], rel=1e-5)


def test_the_plane_is_the_same_by_either_matrix():
    """20 images of 50 dimensions, and the same images padded by copies to 60."""
    few = normal(20, 10, 5)
    one, two = principal_plane(few), principal_plane(few.repeat(3, 1, 1))
    torch.testing.assert_close(one.axes, two.axes)
    assert one.fraction == pytest.approx(two.fraction)


def test_images_on_a_line_span_no_plane():
    with pytest.raises(ValueError, match="span no plane"):
        principal_plane(torch.arange(5.0).view(5, 1, 1) * torch.ones(1, 2, 2))
