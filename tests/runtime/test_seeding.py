import multiprocessing
from itertools import combinations

import pytest
import torch

from robustok.runtime.seeding import derive, mixed, spread, stream


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


def test_neighboring_steps_are_unrelated():
    numbers = torch.stack([torch.rand(2000, generator=stream(0, "noise", step)) for step in range(20)])
    correlation = torch.corrcoef(numbers) - torch.eye(20)
    assert correlation.abs().max() < 5 / 2000**0.5  # five standard deviations of 190 correlations


def test_another_process_draws_the_same():
    context = multiprocessing.get_context("forkserver")  # with its own hash seed
    with context.Pool(1) as pool:
        assert pool.apply(draw, (3, "perturb", 10, 1)) == draw(3, "perturb", 10, 1)
        assert pool.apply(derive, (3, "perturb", 10, 1)) == derive(3, "perturb", 10, 1)


def test_the_seed_of_a_place_never_changes():
    assert derive(0, "step", 1, 2) == 5805623568487332355


@pytest.mark.parametrize("seed", [0, -1, 2**63])
def test_any_integer_is_a_seed(seed: int):
    assert stream(seed, "x").device.type == "cpu"
    assert 0 <= derive(seed, "x") < 2**64


def test_positions_are_mixed_as_splitmix64_does():
    """Its published first outputs from seed 0."""
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B)
    assert [number % 2**64 for number in mixed(torch.arange(5)).tolist()] == list(published)


def test_no_two_positions_are_mixed_alike():
    assert len(mixed(torch.arange(100_000)).unique()) == 100_000


@pytest.mark.parametrize("step", [2, 5, 10, 16, 1000])
def test_spread_positions_go_with_no_stride(step):
    chosen = spread(2000, 5000)
    assert len(chosen.unique()) == 2000
    assert chosen.tolist() == sorted(chosen.tolist())
    expected, shares = 2000 / step, (chosen % step).bincount(minlength=step)
    assert ((shares - expected).square() / expected).sum() < step - 1 + 5 * (2 * step) ** 0.5


def test_more_spread_positions_are_the_same_and_others():
    assert set(spread(10, 100).tolist()) < set(spread(11, 100).tolist())
    for count in (100, 1000):
        assert torch.equal(spread(count, 100), torch.arange(100))
