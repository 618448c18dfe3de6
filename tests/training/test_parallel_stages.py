"""Two processes end where one does: every stage, whole and in uneven parts, replicated and sharded, and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.parallel_cases import CASES, HALF, RESUMED, STEPS, TOGETHER, work
from torch.multiprocessing.spawn import start_processes

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two wrote of all cases."""
    folder = tmp_path_factory.mktemp("parallel")
    start_processes(work, (str(folder),), nprocs=TOGETHER + 1, start_method="forkserver")
    return folder


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """A nested state with one name for each leaf."""
    match value:
        case dict():
            return {k: v for name, entry in value.items() for k, v in flat(entry, f"{where}.{name}").items()}
        case list():
            return {k: v for i, entry in enumerate(value) for k, v in flat(entry, f"{where}.{i}").items()}
    return {where: value}


def assert_same(one: Any, other: Any) -> None:
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, other[name], rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert value == other[name], name


def read(folder: Path, name: str) -> Any:
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(folder, case):
    alone, together = read(folder, f"alone, {case}"), read(folder, f"together, {case}")
    assert len(alone["terms"]) == STEPS
    assert not any(terms["skipped"] for terms in alone["terms"])
    assert_same(alone["terms"], together["terms"])
    assert_same(alone["state"], together["state"])


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize(("who", "other"), [("alone", "together"), ("together", "alone")])
def test_what_one_number_of_processes_left_another_finishes(folder, case, who, other):
    resumed, straight = read(folder, f"{who} from {other}, {case}"), read(folder, f"alone, {case}")
    assert_same(resumed["terms"], straight["terms"][HALF:])
    assert_same(resumed["state"], straight["state"])


def test_the_cases_do_what_they_are_for(folder):
    terms = read(folder, "alone, tokenizer, vq")["terms"]
    assert any(row["dead_codes"] > 0 for row in terms)
    assert {"frechet", "semantic", "adversarial_weight", "discriminator"} <= terms[-1].keys()
    assert terms[-1]["adversarial_weight"] > 0
    rebuilt = [read(folder, f"alone{end}, tokenizer, few perturbed")["rebuilt"] for end in ("", " from together")]
    whole, second_half = rebuilt
    assert whole >= 3  # in steps in which one of two processes has no perturbed image
    assert second_half >= 2
