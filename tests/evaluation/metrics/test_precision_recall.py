import math

import pytest
import torch

from robustok.evaluation.metrics import precision_recall as module
from robustok.evaluation.metrics.precision_recall import density_coverage, nearness, precision_recall


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # with k = 1 every ball has radius 1
    generated = torch.tensor([[-0.5], [4.0], [9.0], [9.5]])  # radii 4.5, 4.5, 0.5, 0.5
    closed = precision_recall(generated=generated, real=real, k=1)
    assert closed == (2 / 4, 4 / 4)  # 4.0 lies on the surface of the ball around 3.0
    # -0.5 lies in one ball of four; a single real ball holds a generated image
    assert density_coverage(generated=generated, real=real, k=1) == (1 / 4, 1 / 4)


def test_exchanging_the_sets_exchanges_precision_and_recall():
    a, b = cloud(80), cloud(60, seed=1) * 0.5
    one, other = precision_recall(generated=a, real=b), precision_recall(generated=b, real=a)
    assert one.precision != one.recall
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_the_same_set_is_precise_and_covered():
    assert precision_recall(generated=cloud(50), real=cloud(50)) == (1, 1)
    density, coverage = density_coverage(generated=cloud(50), real=cloud(50))
    assert coverage == 1
    assert density == pytest.approx(1, abs=0.1)  # each ball holds itself and k - 1 more, strictly: k


def test_values_of_the_accepted_evaluators(parity):
    _, io = parity("fid_reference")
    sets = {"generated": io["features_gen"], "real": io["features_ref"]}
    closed = precision_recall(**sets)
    for name in ("adm_fp32", "torch_fidelity"):
        assert closed.precision == pytest.approx(io[f"precision_{name}"].item(), rel=1e-6)
        assert closed.recall == pytest.approx(io[f"recall_{name}"].item(), rel=1e-6)
    radii = module._radii(io["features_ref"], 3)
    torch.testing.assert_close(radii, io["adm_radii_ref"].double(), rtol=1e-5, atol=1e-6)
    for k in (3, 5):
        for name, value in density_coverage(**sets, k=k)._asdict().items():
            assert value == pytest.approx(io[f"prdc_k{k}_{name}"].item(), rel=1e-6)


def test_rows_in_memory_do_not_matter(monkeypatch):
    a, b = cloud(50), cloud(40, seed=1)
    at_once = precision_recall(generated=a, real=b), density_coverage(generated=a, real=b)
    monkeypatch.setattr(module, "ROWS", 7)
    assert (precision_recall(generated=a, real=b), density_coverage(generated=a, real=b)) == at_once


def test_refuses_what_has_no_neighbors(unchecked):
    with pytest.raises(ValueError, match="too few generated images, 3; give 4 or more"):
        precision_recall(generated=cloud(3), real=cloud(9))
    with pytest.raises(ValueError, match="too few real images, 1; give 22 or more"):
        density_coverage(generated=cloud(30), real=cloud(1), k=21)
    with pytest.raises(ValueError, match="too few generated images, 0; give 1 or more"):
        density_coverage(generated=cloud(9)[:0], real=cloud(9))
    with pytest.raises(ValueError, match="generated features have 4 numbers and real ones 5"):
        density_coverage(generated=cloud(9)[:, :4], real=cloud(9))
    with pytest.raises(ValueError, match="real features hold NaN"):
        precision_recall(generated=cloud(9), real=cloud(9) * torch.nan)
    with pytest.raises(ValueError, match="all 9 real images have the same features"):
        density_coverage(generated=cloud(9), real=torch.ones(9, 5))


def test_density_takes_neighbors_of_real_images_only():
    """One image in the middle of all: it lies in balls that are counted by hand."""
    real, one = cloud(30), cloud(30).mean(dim=0, keepdim=True)
    radii = torch.cdist(real.double(), real.double()).kthvalue(6, dim=1).values
    within = torch.cdist(real.double(), one.double())[:, 0] < radii
    found = density_coverage(generated=one, real=real)
    assert found.density == pytest.approx(int(within.sum()) / 5)
    assert found.coverage == pytest.approx(float(within.double().mean()))


def test_what_is_outside_is_what_precision_leaves(unchecked):
    made, real = cloud(200, seed=1) * 1.4, cloud(300)
    near = nearness(generated=made, real=real)
    assert 1 - float(near.outside.double().mean()) == pytest.approx(
        precision_recall(generated=made, real=real).precision
    )
    apart = torch.cdist(made.double(), real.double())
    wanted = apart.amin(dim=1) / math.sqrt(5)
    assert torch.equal(near.nearest, apart.argmin(dim=1))
    torch.testing.assert_close(near.distance, wanted)
    with pytest.raises(ValueError, match="the same extractor"):
        nearness(generated=cloud(10)[:, :4], real=cloud(10))
    with pytest.raises(ValueError, match="too few real images, 3; give 4 or more"):
        nearness(generated=cloud(3), real=cloud(3))
