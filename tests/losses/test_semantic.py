"""The contrastive loss against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from robustok.losses.semantic import SemanticHead, contrastive


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_orthogonal_pairs(n: int, scale: float):
    wanted = math.log(1 + (n - 1) * math.exp(-scale))  # similarities are the identity matrix times the scale
    assert contrastive(torch.eye(n), 3 * torch.eye(n), scale).item() == pytest.approx(wanted, abs=1e-6)


def test_rows_that_are_all_alike_cost_log_of_their_count():
    assert contrastive(torch.ones(6, 4), torch.ones(6, 4), 10.0).item() == pytest.approx(math.log(6))


def test_wrong_pairs_cost_the_scale_more():
    right, wrong = torch.eye(5), torch.eye(5).roll(1, dims=0)
    assert (contrastive(right, wrong, 8.0) - contrastive(right, right, 8.0)).item() == pytest.approx(8, rel=1e-5)


def test_both_directions_count_alike():
    a, b = noise(6, 4), noise(6, 4, seed=1)
    a[1] = a[0]  # two rows of one side are the same: the directions differ
    assert contrastive(a, b, 4.0).item() == pytest.approx(contrastive(b, a, 4.0).item())


def test_the_lengths_of_rows_do_not_count():
    a, b = noise(6, 4), noise(6, 4, seed=1)
    stretched = a * torch.arange(1, 7).view(6, 1)
    assert contrastive(stretched, b, 4.0).item() == pytest.approx(contrastive(a, b, 4.0).item(), rel=1e-5)


def test_autocast_changes_nothing():
    a, b = noise(6, 4), noise(6, 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        within = contrastive(a, b, 4.0)
    assert torch.equal(within, contrastive(a, b, 4.0))


def test_descent_brings_pairs_together():
    latents, features = noise(8, 6).requires_grad_(), noise(8, 6, seed=1)
    for _ in range(100):
        (gradient,) = torch.autograd.grad(contrastive(latents, features, 5.0), latents)
        latents.data -= 2 * gradient
    nearest = torch.cdist(torch.nn.functional.normalize(latents), torch.nn.functional.normalize(features)).argmin(1)
    assert torch.equal(nearest, torch.arange(8))


@pytest.mark.usefixtures("unchecked")
def test_sides_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \(4, 8\) and \(4, 6\); bring both to one width"):
        contrastive(torch.ones(4, 8), torch.ones(4, 6), 1.0)


def test_the_head_is_an_affine_map_to_the_codebook_width():
    head = SemanticHead(features=20, width=8)
    a, b = noise(3, 20), noise(3, 20, seed=1)
    assert head(a).shape == (3, 8)
    torch.testing.assert_close(head((a + b) / 2), (head(a) + head(b)) / 2)
    head(a).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in head.parameters())
