"""iFID's neighbors: closed form, brute force, and the same whatever they are looked for in."""

import pytest
import torch

from robustok.evaluation.metrics import ifid
from robustok.evaluation.metrics.ifid import Nearest


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_midpoints_of_pairs():
    """Pairs 1 apart, the pairs 10 apart: everybody's neighbor is the other one of the pair."""
    latents = torch.tensor([0.0, 1.0, 11.0, 12.0, 22.0, 23.0])[:, None, None].expand(6, 2, 3)
    nearest = Nearest(latents, torch.arange(6))
    nearest.show(latents, torch.arange(6))
    wanted = torch.tensor([0.5, 0.5, 11.5, 11.5, 22.5, 22.5])
    assert torch.equal(nearest.midpoints(), wanted[:, None, None].expand(6, 2, 3))
    torch.testing.assert_close(nearest.distances, torch.full((6,), 6.0**0.5))


@pytest.mark.parametrize("held", [ifid.DISTANCES, 64])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_chunks_find_what_brute_force_finds(held, size, monkeypatch):
    monkeypatch.setattr(ifid, "DISTANCES", held)
    latents = points(50, 4, 3)
    apart = torch.tensor([[float((a.double() - b.double()).norm()) for b in latents] for a in latents])
    apart.fill_diagonal_(torch.inf)
    nearest = Nearest(latents, torch.arange(50))
    for places in torch.arange(50).split(size):
        nearest.show(latents[places], places)
    assert torch.equal(nearest.neighbors, latents[apart.argmin(dim=1)])
    torch.testing.assert_close(nearest.distances, apart.amin(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(nearest.midpoints(), torch.lerp(latents, latents[apart.argmin(dim=1)], 0.5))


def test_neighbors_are_found_far_from_zero():
    latents = points(50, 4, 3)
    far = latents + torch.tensor([300.0, -1000.0, 0.0])
    one, other = Nearest(latents, torch.arange(50)), Nearest(far, torch.arange(50))
    one.show(latents, torch.arange(50))
    other.show(far, torch.arange(50))
    torch.testing.assert_close(other.distances, one.distances, rtol=1e-3, atol=0)


def test_places_tell_images_apart_not_their_order():
    latents = points(9, 2, 2)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    nearest = Nearest(latents[3:6], torch.arange(3, 6))
    nearest.show(latents[shuffled], shuffled)
    assert (nearest.distances > 0).all()
    assert not (nearest.neighbors == latents[3:6]).flatten(1).all(dim=1).any()


def test_an_image_that_comes_twice_is_its_own_midpoint():
    latents = points(3, 2, 2)[[0, 1, 0, 2]]
    nearest = Nearest(latents, torch.arange(4))
    nearest.show(latents, torch.arange(4))
    assert torch.equal(nearest.midpoints()[[0, 2]], latents[[0, 2]])


def test_another_set_may_hold_the_same_images():
    latents = points(5, 2, 2)
    nearest = Nearest(latents, torch.arange(5))
    nearest.show(latents)
    assert torch.equal(nearest.midpoints(), latents)


def test_one_image_has_no_neighbor():
    latents = points(1, 2, 2)
    nearest = Nearest(latents, torch.arange(1))
    nearest.show(latents, torch.arange(1))
    with pytest.raises(ValueError, match="nearest of other images and there is none; give at least two"):
        nearest.midpoints()
