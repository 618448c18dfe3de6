"""The best model of a run, and the time that checks take: with the toy."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import LOOP, Constant, Kept, die, ends_at, rows, start, train
from torch import Tensor

from robustok.evaluation.scores.score import Score
from robustok.runtime.checkpoint import load_model, read_json
from robustok.runtime.logging import MetricsLog
from robustok.training.loop import run
from robustok.training.saving import Best


def watched(folder: Path, values: list[dict[str, float]], by: str = "auto", **change: Any) -> None:
    """Train for as many steps as there are values, each of which is what a check finds."""
    config = replace(LOOP, steps=len(values), keep_best=by, log_every=1, **change)
    stage, count = Constant(lambda step: {"loss": 1.0 / (1 + step)}), [0]

    def check(done: int) -> dict[str, float]:
        count[0] = done
        return values[done - 1]

    train(folder, stage, config, validate=check, validate_every=1, model=lambda: Kept(float(count[0])))


@pytest.mark.parametrize(
    ("by", "values", "step"),
    [
        ("auto", [{"rfid": 1.0, "pfid": 5.0}, {"rfid": 9.0, "pfid": 3.0}, {"rfid": 0.5, "pfid": 4.0}], 2),
        ("auto", [{"gfid": 5.0}, {"gfid": 3.0}, {"gfid": 3.0}], 2),
        ("rfid", [{"rfid": 1.0, "pfid": 5.0}, {"rfid": 9.0, "pfid": 3.0}, {"rfid": 0.5, "pfid": 4.0}], 3),
        ("psnr", [{"psnr": 20.0}, {"psnr": 22.0}, {"psnr": 21.0}], 2),
        ("loss", [{}, {}, {}], 3),
        ("pfid", [{"pfid": float("nan")}, {"pfid": 3.0}, {"pfid": float("inf")}], 2),
    ],
)
def test_the_best_model_is_kept_with_what_it_was_chosen_by(by, values, step, tmp_path: Path):
    watched(tmp_path, values, by)
    state, config = load_model(tmp_path / "best", "toy")
    assert state["value"] == step
    chosen = by if by != "auto" else "pfid" if "pfid" in values[0] else "gfid"
    assert config["best"]["by"] == chosen
    assert config["best"]["step"] == step
    assert config["best"]["scores"] == values[step - 1]
    assert not list(tmp_path.glob("best.*"))


def test_scores_that_were_checked_are_kept_with_their_protocol(tmp_path: Path):
    score = Score(metric="pfid", value=3.0, images=8, protocol={"features": "lite0"})
    train(tmp_path, validate=lambda done: [score], model=Kept)
    assert read_json(tmp_path / "best" / "scores.json") == [score.to_plain()]
    assert read_json(tmp_path / "best" / "run.json") == read_json(tmp_path / "run.json")
    assert rows(tmp_path)[-1]["pfid"] == 3.0


@pytest.mark.parametrize("by", ["auto", "none"])
def test_no_model_is_kept_where_nothing_tells_which(by: str, tmp_path: Path):
    watched(tmp_path, [{"rfid": 1.0}] if by == "auto" else [{"pfid": 1.0}], by)
    assert not (tmp_path / "best").exists()


def test_a_score_that_is_never_logged_is_refused_at_the_first_check(tmp_path: Path):
    with pytest.raises(ValueError, match=r"keep_best is 'pfd', which this run does not log; choose from loss, .*pfid"):
        watched(tmp_path, [{"pfid": 1.0}, {"pfid": 1.0}], "pfd")
    assert not (tmp_path / "resume.safetensors").exists()
    with pytest.raises(ValueError, match="this stage keeps no best model by a score; set keep_best to auto or none"):
        train(tmp_path, config=replace(LOOP, keep_best="pfid"))


def test_the_best_so_far_outlives_a_stop_and_another_score_starts_anew(tmp_path: Path):
    values = [{"pfid": 5.0, "rfid": 2.0}, {"pfid": 1.0, "rfid": 3.0}, {"pfid": 2.0, "rfid": 2.5}]

    def part(stop: int, by: str) -> None:
        made = ends_at(stop)
        config = replace(LOOP, steps=3, keep_best=by, save_every=1)
        stage, last = Constant(lambda step: {"loss": 1.0}), [0]

        def check(done: int) -> dict[str, float]:
            last[0] = done
            return values[done - 1]

        model = lambda: Kept(float(last[0]))  # noqa: E731
        run(stage, made, config, tmp_path, name="toy", validate=check, validate_every=1, model=model, quiet=True)

    with pytest.raises(ValueError, match="no more"):
        part(2, "pfid")
    part(3, "pfid")
    assert load_model(tmp_path / "best")[0]["value"] == 2
    (tmp_path / "resume.safetensors").unlink()
    with pytest.raises(ValueError, match="no more"):
        part(2, "pfid")
    part(3, "rfid")
    assert load_model(tmp_path / "best")[0]["value"] == 3


def keep_and_die(folder: Path, when: str) -> None:
    """Replace a best model by a better one in a process that is killed on the way."""
    rename = Path.rename

    def deadly(path: Path, target: Path) -> Path:
        if when in ("before", path.name):
            die()
        return rename(path, target)

    patch = pytest.MonkeyPatch()
    patch.setattr(Path, "rename", deadly)
    if when == "half written":
        patch.setattr(Kept, "save_pretrained", lambda model, folder, **about: (folder.mkdir(), die()))
    watched(folder, [{"pfid": 3.0}, {"pfid": 2.0}])


@pytest.mark.parametrize(("when", "value"), [("half written", 7), ("before", 7), ("best.partial", 7)])
def test_a_kill_leaves_one_whole_best_model(when: str, value: float, tmp_path: Path):
    Kept(7.0).save_pretrained(tmp_path / "best")
    child = start(keep_and_die, tmp_path, when)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    Best(tmp_path, "auto", Kept)  # as the run does when it goes on
    assert load_model(tmp_path / "best")[0]["value"] == value
    watched(tmp_path, [{"pfid": 3.0}, {"pfid": 2.0}])
    assert load_model(tmp_path / "best")[0]["value"] == 2
    assert not list(tmp_path.glob("best.*"))


# What the log says of the time


def test_the_log_says_what_share_of_the_time_went_into_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Timed(Constant):
        def step(self, batch: Any, step: int) -> dict[str, Tensor]:
            clock[0] += 2.0
            return super().step(batch, step)

    def check(done: int) -> dict[str, float]:
        clock[0] += 3.0
        return {"pfid": 1.0}

    def preview(done: int) -> dict[str, Tensor]:
        clock[0] += 1.0
        return {"gray": torch.zeros(3, 2, 2)}

    config = replace(LOOP, steps=12, log_every=6, preview_every=3)
    train(tmp_path, Timed(lambda step: {"l1": 1.0}), config, validate=check, validate_every=6, preview=preview)
    logged = [(row["seconds"], row["evaluation_share"]) for row in MetricsLog(tmp_path).rows()]
    assert logged == [(16.0, 4 / 16), (33.0, 9 / 33)]  # 12 + 3 + 1 s; 24 + 2 * 3 + 3, the last preview to come
