import multiprocessing
from itertools import combinations

import pytest
import torch

from robustok.runtime.seeding import derive, stream


def draw(*arguments: object) -> list[float]:
    return torch.rand(4, generator=stream(*arguments)).tolist()  # type: ignore[arg-type]


def test_the_same_place_gives_the_same_numbers():
    assert draw(3, "perturb", 10, 1) == draw(3, "perturb", 10, 1)


def test_seed_purpose_number_of_positions_and_each_position_matter():
    places = [
        (3, "perturb", 10, 1),
        (4, "perturb", 10, 1),
        (3, "augment", 10, 1),
        (3, "perturb", 11, 1),
        (3, "perturb", 10, 2),
        (3, "perturb", 1, 10),
        (3, "perturb", 10),
        (3, "perturb", 101),
        (3, "perturb"),
    ]
    for one, other in combinations(places, 2):
        assert draw(*one) != draw(*other), (one, other)


def test_neighbouring_steps_are_unrelated():
    numbers = torch.stack([torch.rand(2000, generator=stream(0, "noise", step)) for step in range(20)])
    correlation = torch.corrcoef(numbers) - torch.eye(20)
    assert correlation.abs().max() < 5 / 2000**0.5  # five standard deviations of 190 correlations


def test_another_process_draws_the_same():
    context = multiprocessing.get_context("forkserver")  # with its own hash seed
    context.set_forkserver_preload(["torch._dynamo"])
    with context.Pool(1) as pool:
        assert pool.apply(draw, (3, "perturb", 10, 1)) == draw(3, "perturb", 10, 1)
        assert pool.apply(derive, (3, "perturb", 10, 1)) == derive(3, "perturb", 10, 1)


def test_the_seed_of_a_place_never_changes():
    assert derive(0, "step", 1, 2) == 5805623568487332355


@pytest.mark.parametrize("seed", [0, -1, 2**63])
def test_any_integer_is_a_seed(seed: int):
    assert stream(seed, "x").device.type == "cpu"
    assert 0 <= derive(seed, "x") < 2**64
