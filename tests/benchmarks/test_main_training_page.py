"""The page of the main-training study, from invented results."""

import json
from pathlib import Path
from typing import Any

import pytest
from main_training_arms import QUEUE
from main_training_page import gain_in_last_fifth, over, reaching, write


def result(arm: str, seed: int, gfid: float, **changes: Any) -> dict[str, Any]:
    settings = {"tokenizer": {"quantizer": {"codebook_size": 256}}, "loop": {"batch_size": 16}}
    size = {"side": 28, "tokenizer_steps": 10, "generator_steps": 10, "generated": 50, "validation": 100}
    return {
        "arm": arm,
        "seed": seed,
        "size": size | {"held_out": 30, "perturbed": 20, "compared": 10, "along": 20},
        "settings": settings,
        "spaces": {"lite0": {"features": "lite0"}, "other": {"accuracy": 0.9, "seed": 101}},
        "circumstances": [{"commit": "0123456789abcdef", "cpu": "a CPU", "threads": 1, "torch": "2"}],
        "tokenizer_loss": {"5": {"loss": 2.0}, "8": {"loss": 1.0}, "10": {"loss": 0.97}},
        "generator": {"settings": settings, "nats": 2.0 + seed, "generator_loss": {"5": 4.0, "8": 3.0, "10": 3.0}},
        "reconstruction": {
            "rfid": {"lite0": 100.0, "other": 1.0},
            "pfid": {"lite0": 150.0, "other": 2.0},
            "perplexity": 200.0,
        },
        "gfid": {"lite0": gfid, "other": gfid / 100},
        "gfid at 5": {"lite0": 2 * gfid, "other": 0.0},
        "gfid at 10": {"lite0": gfid, "other": 0.0},
        "precision_recall": {name: {"precision": 0.5, "recall": 0.25} for name in ("lite0", "other")},
        "guidance": 1.5,
    } | changes


def written(folder: Path, *results: dict[str, Any]) -> str:
    for number, one in enumerate(results):
        (folder / f"{number}.json").write_text(json.dumps(one))
    write(folder)
    return (folder / "README.md").read_text()


def test_the_page_pairs_seeds_and_says_what_is_missing(tmp_path):
    page = written(
        tmp_path,
        result("none", 0, 200.0),
        result("none", 1, 220.0),
        result("two phases", 0, 180.0),
        result("two phases", 1, 187.0),
        result("two phases, clean", 0, 200.0),
        result("paper", 0, 210.0),
    )
    assert "| paper | 210 | +5.0% | - | 0.500 | 0.250 | 1.5 |" in page
    row = next(line for line in page.splitlines() if line.startswith("| two phases | 183.5"))
    assert "-12.5%" in row  # the mean of -10 % and -15 %, not of the means
    assert row.split(" | ")[3] == "-10.0%"  # against the clean one, of the seed that there is
    assert "Not finished" in page
    assert "accuracy 90.0%, seed 101" in page
    assert "| none | 3.0% (3.0% to 3.0%) | 0.0% (0.0% to 0.0%) |" in page  # how converged


def test_an_arm_without_its_baseline_is_compared_with_nothing(tmp_path):
    assert "| paper | 210 | - | - | 0.500" in written(tmp_path, result("paper", 0, 210.0))


def test_without_results_the_page_says_so_and_what_is_to_come(tmp_path):
    page = written(tmp_path)
    assert "No arm is finished yet." in page
    assert f"{len(QUEUE)} of {len(QUEUE)} runs are missing" in page


def test_steps_to_reach_the_baseline_are_read_off_the_line_between_two_points():
    base = {"gfid at 5": {"a": 300.0}, "gfid at 10": {"a": 200.0}}
    better = {"gfid at 5": {"a": 250.0}, "gfid at 10": {"a": 150.0}}
    assert reaching(better, base, [5, 10], "a") == pytest.approx(0.75)
    assert reaching(base, base, [5, 10], "a") == 1.0
    assert reaching(base, better, [5, 10], "a") == float("inf")
    assert reaching({"gfid at 5": {"a": 150.0}}, base, [5, 10], "a") == 0.5


def test_gain_and_mean_in_closed_form():
    assert gain_in_last_fifth({5: 3.0, 7: 2.0, 9: 1.0, 10: 0.75}) == pytest.approx(0.5)  # 1.5 at step 8
    runs = {0: {"x": 1.0}, 1: {"x": 3.0}}
    assert over(runs, lambda r: r["x"], "{:.1f}") == "2.0 (-10.7 to 14.7)"  # 2 +- 12.7062 * 1
    assert over({0: {"x": 1.0}}, lambda r: r["x"], "{:.1f}") == "1.0"


def test_what_post_training_changes_is_told_against_the_same_decoder_before(tmp_path):
    def tuned(lite0: float, recall: float) -> dict[str, Any]:
        both = {name: {"precision": 0.5, "recall": recall} for name in ("lite0", "other")}
        return {"post": {"gfid": {"lite0": lite0, "other": 3.0}, "precision_recall": both}}

    page = written(
        tmp_path,
        result("none", 0, 200.0, **tuned(150.0, 0.35)),
        result("none", 1, 100.0, **tuned(65.0, 0.45)),
        result("paper", 0, 300.0, **tuned(270.0, 0.2)),
        result("stopped", 0, 1.0),
    )
    line = next(line for line in page.splitlines() if line.startswith("| none | -30.0% ("))  # -25 % and -35 %
    assert line.split(" | ")[2].startswith("+125.0% (")  # 2 to 3 and 1 to 3: the mean of +50 % and +200 %
    assert line.endswith("| 0.250 to 0.400 | 0.250 to 0.400 |")
    assert "| paper | -10.0% | +0.0% | 0.250 to 0.200 | 0.250 to 0.200 |" in page
