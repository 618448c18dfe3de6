"""The loop: killed and going on, what it logs and reports, and settings that make no sense."""

import io
import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.training import toy
from tests.training.toy import LOOP, Constant, Toy, at_call, batches, die, final, rows, same, start, train
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from robustok.runtime import checkpoint
from robustok.runtime.checkpoint import load_resume, save_resume
from robustok.runtime.logging import MetricsLog
from robustok.training import saving
from robustok.training.loop import Stage, run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder)
    return folder


# Killing and going on. Each child dies of a real SIGKILL, at a place of our choosing or of the clock's.


def half_a_row(log: MetricsLog, step: int, values: Any) -> None:
    with log.path.open("a") as file:
        file.write(f'{{"step": {step}, "l2": 0.1')
    die()


def half_a_file(tensors: Any, path: Path, metadata: Any) -> None:
    path.write_bytes(b"\x20" + bytes(7) + b'{"step')
    die()


def save_and_die(*arguments: Any) -> None:
    save_resume(*arguments)
    die()


def train_and_die(folder: Path, where: str) -> None:
    stage, patch = Toy(), pytest.MonkeyPatch()
    match where:
        case "in the first step":
            patch.setattr(stage.optimizer, "step", at_call(1, die, stage.optimizer.step))
        case "between gradient and optimizer step":
            patch.setattr(stage.optimizer, "step", at_call(7, die, stage.optimizer.step))
        case "between optimizer step and EMA":
            patch.setattr(stage.ema, "update", at_call(7, die, stage.ema.update))
        case "while a batch is made":
            patch.setattr(toy, "batches", at_call(10, die, toy.batches))
        case "while a row is written":
            patch.setattr(MetricsLog, "write", at_call(3, half_a_row, MetricsLog.write))
        case "before the first save":
            patch.setattr(checkpoint, "save_file", at_call(1, die, save_file))
        case "while the second save is written":
            patch.setattr(checkpoint, "save_file", at_call(2, half_a_file, save_file))
        case "right after the first save":
            patch.setattr(saving, "save_resume", at_call(1, save_and_die, save_resume))
        case "right after the last save":
            patch.setattr(saving, "save_resume", at_call(3, save_and_die, save_resume))
        case "between write and rename":
            patch.setattr(os, "replace", at_call(3, die, os.replace))  # the first was run.json
    train(folder, stage)


PLACES = [
    "in the first step",
    "between gradient and optimizer step",
    "between optimizer step and EMA",
    "while a batch is made",
    "while a row is written",
    "before the first save",
    "while the second save is written",
    "between write and rename",
    "right after the first save",
    "right after the last save",
]


@pytest.mark.parametrize("where", PLACES)
def test_a_killed_run_goes_on_to_bitwise_the_same_end(where: str, straight: Path, tmp_path: Path):
    child = start(train_and_die, tmp_path, where)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    train(tmp_path)
    assert same(final(straight), final(tmp_path))
    assert rows(straight) == rows(tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 12]  # each once
    assert not list(tmp_path.glob("*.partial"))


class Slow(Toy):
    """Says when it begins, and takes its time."""

    def __init__(self, begun: Path) -> None:
        super().__init__()
        self.begun = begun

    def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        self.begun.touch()
        time.sleep(0.05)
        return super().step(batch, step)


def train_slowly(folder: Path, begun: Path) -> None:
    train(folder, Slow(begun))


def test_a_run_killed_again_and_again_from_outside_still_ends_the_same(straight: Path, tmp_path: Path):
    kills = 0
    for wait in (0.02, 0.27, 0.12, 0.25):  # a save takes 4 steps, 0.2 s
        begun = tmp_path / f"begun{wait}"
        child = start(train_slowly, tmp_path, begun)
        while not begun.exists():
            time.sleep(0.002)
        time.sleep(wait)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills >= 2  # on a busy machine a child may come to its end before it is killed
    train(tmp_path)
    assert same(final(straight), final(tmp_path))
    assert rows(straight) == rows(tmp_path)


def test_a_finished_run_does_nothing_more(straight: Path):
    before = {path.name: path.stat().st_mtime_ns for path in straight.glob("resume*")}
    stage = Toy()

    def no_batch(step: int) -> Tensor:
        raise AssertionError("no batch is needed")

    run(stage, no_batch, LOOP, straight, name="toy", quiet=True)
    assert same(final(straight), stage.state_dict())
    assert before == {path.name: path.stat().st_mtime_ns for path in straight.glob("resume*")}


def test_dropout_differs_from_step_to_step_and_looking_changes_nothing(straight: Path, tmp_path: Path):
    def look(done: int) -> dict[str, float]:
        return {"noise": float(torch.rand(()))}

    train(tmp_path, validate=look, validate_every=1)
    assert same(final(straight), final(tmp_path))
    assert len({row["noise"] for row in rows(tmp_path)}) == LOOP.steps


def test_another_configuration_is_not_continued(tmp_path: Path):
    train(tmp_path, describe={"stage": {"lr": 0.1, "betas": (0.9, 0.95)}})
    train(tmp_path, describe={"stage": {"lr": 0.1, "betas": [0.9, 0.95]}})
    train(tmp_path, config=replace(LOOP, log_every=7), describe={"stage": {"lr": 0.1, "betas": [0.9, 0.95]}})
    with pytest.raises(ValueError) as caught:
        train(tmp_path, config=replace(LOOP, steps=20), describe={"stage": {"lr": 0.2, "betas": [0.9, 0.95]}})
    assert str(caught.value) == (
        f"{tmp_path} holds a run with other settings (loop.steps: 12 in the folder, 20 now; stage.lr: 0.1 in the "
        "folder, 0.2 now); choose another folder, go back to those settings, or delete "
        f"{tmp_path / 'resume.safetensors'} to start afresh"
    )
    (tmp_path / "resume.safetensors").unlink()
    train(tmp_path, config=replace(LOOP, steps=2))
    assert [row["step"] for row in rows(tmp_path)] == [2]
    assert json.loads((tmp_path / "run.json").read_text()) == {"loop": {"steps": 2, "batch_size": 4, "seed": 3}}


# What is logged, looked at and reported


def test_rows_hold_the_mean_since_the_last_row_and_what_checks_found(tmp_path: Path):
    config = replace(LOOP, steps=7, log_every=3)
    checks: list[int] = []

    def check(done: int) -> dict[str, float]:
        checks.append(done)
        return {"psnr": 20.0 + done}

    stage = Constant(lambda step: {"l1": float(step), "late": float(step) if step % 3 else float("nan")})
    train(tmp_path, stage, config, validate=check, validate_every=2)
    assert rows(tmp_path) == [
        {"step": 2, "psnr": 22.0},
        {"step": 3, "l1": 1.0, "late": 1.5, "skipped": 0.0},
        {"step": 4, "psnr": 24.0},
        {"step": 6, "l1": 4.0, "late": 4.5, "skipped": 0.0, "psnr": 26.0},
        {"step": 7, "l1": 6.0, "skipped": 0.0, "psnr": 27.0},
    ]
    assert checks == [2, 4, 6, 7]
    assert all(row["seconds"] > 0 for row in MetricsLog(tmp_path).rows() if "l1" in row)


def test_skipped_steps_are_counted_and_left_out_of_the_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = {1, 2, 5}
    stage = Constant(lambda step: {"l1": float("nan") if step in bad else 2.0, "skipped": float(step in bad)})
    run(stage, batches, replace(LOOP, max_skipped=3), tmp_path, name="toy")
    assert [row["skipped"] for row in rows(tmp_path)] == [2, 3, 3, 3]
    assert [row["l1"] for row in rows(tmp_path)] == [2.0] * 4
    assert "toy: step 3 skipped, loss or gradient not finite (2 in a row)" in capsys.readouterr().out


@pytest.mark.parametrize("resumed", [False, True])
def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path: Path, resumed: bool):
    stage = Constant(lambda step: {"l1": 1.0, "skipped": float(step >= 2)})
    for _ in range(1 + resumed):  # the count in a row goes on after a save, too
        with pytest.raises(RuntimeError) as caught:
            train(tmp_path, stage, replace(LOOP, max_skipped=3))
        assert str(caught.value) == (
            "toy stopped at step 5: the loss or its gradient was not finite in the last 3 steps; "
            f"lower the learning rate, lengthen the warm-up or train in fp32, in another folder than {tmp_path}"
        )
    assert load_resume(tmp_path / "resume.safetensors")["counts"]["done"] == 4


def test_a_run_that_never_took_a_step_fails_however_short_and_says_what_was_not_finite(tmp_path: Path):
    stage = Constant(lambda step: {"l1": 1.0, "frechet": float("nan"), "skipped": 1.0})
    for number in range(2):
        with pytest.raises(RuntimeError) as caught:
            train(tmp_path, stage, replace(LOOP, steps=4, save_every=2, max_skipped=9))
        assert str(caught.value) == (
            "toy stopped at step 4: every step was skipped, since the loss or its gradient was not finite from the "
            "first one on (frechet), so nothing was learned; no learning rate helps: look at the images, the weights "
            f"that it began with and the terms of the loss, or train in fp32, in another folder than {tmp_path}"
        ), number
    with pytest.raises(RuntimeError, match="stopped at step 3: every step was skipped"):
        train(tmp_path / "long", stage, replace(LOOP, max_skipped=3))


def test_a_finished_run_of_an_earlier_version_that_never_took_a_step_fails_too(tmp_path: Path):
    train(tmp_path)
    saved = load_resume(tmp_path / "resume.safetensors")
    saved["counts"]["skipped"] = saved["counts"]["done"]
    save_resume(tmp_path / "resume.safetensors", saved)
    with pytest.raises(RuntimeError, match="stopped at step 12: every step was skipped"):
        train(tmp_path)


def test_a_diverging_stage_is_stopped_and_its_weights_stay_finite(tmp_path: Path):
    stage = Toy()

    def poisoned(step: int) -> Tensor:
        return batches(step) * (float("nan") if step >= 6 else 1.0)

    stage.model[1].eval()  # batch statistics would keep the NaN
    with pytest.raises(RuntimeError, match="toy stopped at step 10"):
        run(stage, poisoned, replace(LOOP, max_skipped=4), tmp_path, name="toy", quiet=True)
    assert all(weight.isfinite().all() for weight in stage.model.parameters())


def on_two_ranks(rank: int, folder: Path) -> None:
    """A run of which rank 0 sees a term of 0 and rank 1 a term of 1, and steps from 2 on are skipped on rank 1."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stage = Constant(lambda step: {"l1": float(rank), "skipped": float(rank == 1 and step >= 2)})
    with pytest.raises(RuntimeError, match="stopped at step 11"):
        train(folder, stage, replace(LOOP, max_skipped=9))
    torch.distributed.destroy_process_group()


def test_ranks_share_terms_and_stop_together_and_one_writes(tmp_path: Path):
    start_processes(on_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    assert [(row["step"], row["l1"]) for row in rows(tmp_path)] == [(3, 0.5), (6, 0.5), (9, 0.5)]
    assert load_resume(tmp_path / "resume.safetensors")["counts"]["done"] == 8


def test_previews_are_pictures(tmp_path: Path):
    def preview(done: int) -> dict[str, Any]:
        return {
            "batch": torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 3, 2, 4),
            "sheet": torch.zeros(3, 6, 5),
            "pixels": torch.full((1, 3, 2, 2), 7, dtype=torch.uint8),
            "pil": Image.new("RGB", (9, 8), (1, 2, 3)),
        }

    train(tmp_path, config=replace(LOOP, preview_every=5), preview=preview)
    files = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert files == sorted(f"{name}_{n:07d}.png" for name in preview(0) for n in (5, 10, 12))

    def open_(name: str) -> Image.Image:
        return Image.open(io.BytesIO((tmp_path / "previews" / f"{name}_0000005.png").read_bytes()))

    batch = open_("batch")
    assert (batch.size, batch.mode) == ((12, 4), "RGB")  # 2 rows of 3, each 4 wide and 2 high
    cells = [batch.getpixel((4 * column + 1, 2 * row + 1)) for row in range(2) for column in range(3)]
    assert [cell[0] for cell in cells] == [0, 64, 128, 191, 255, 255]  # type: ignore[index]  # the last is empty
    assert open_("sheet").size == (5, 6)
    assert open_("pixels").getpixel((0, 0)) == (7, 7, 7)
    assert open_("pil").getpixel((0, 0)) == (1, 2, 3)


def test_batches_are_made_ahead_in_a_thread(tmp_path: Path):
    made: list[tuple[int, str]] = []
    ahead = threading.Event()

    def make(step: int) -> int:
        made.append((step, threading.current_thread().name))
        if step == 1:
            ahead.set()
        return step

    class Waiting(Constant):
        def step(self, batch: int, step: int) -> dict[str, Tensor]:
            assert batch == step
            assert ahead.wait(5), "the next batch was not made during this step"
            return super().step(batch, step)

    run(Waiting(lambda step: {"l1": 1.0}), make, replace(LOOP, steps=3), tmp_path, name="toy", quiet=True)
    assert [step for step, _ in made] == [0, 1, 2]
    assert {thread for _, thread in made} == {"batches_0"}


def test_an_error_in_a_batch_is_raised_as_it_is(tmp_path: Path):
    def broken(step: int) -> Tensor:
        if step == 5:
            raise ValueError("image 17 is broken")
        return batches(step)

    with pytest.raises(ValueError, match="image 17 is broken"):
        run(Toy(), broken, LOOP, tmp_path, name="toy", quiet=True)
    assert load_resume(tmp_path / "resume.safetensors")["counts"]["done"] == 4


def test_a_failed_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path):
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", at_call(2, full, save_file))
        with pytest.raises(OSError, match=r"could not write .*resume.safetensors .*No space.*; the file there is unch"):
            train(tmp_path)
    assert load_resume(tmp_path / "resume.safetensors")["counts"]["done"] == 4
    train(tmp_path)
    assert same(final(straight), final(tmp_path))


def test_plain_lines_tell_what_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stage = Constant(lambda step: {"l1": 0.5, "a": 1.0, "b": 2.0, "c": 3.0, "unseen": 4.0, "skipped": 0.0})
    for _ in range(2):
        run(stage, batches, LOOP, tmp_path, name="toy", validate=lambda done: {"psnr": 21.0})
    lines = capsys.readouterr().out.splitlines()
    progress = r"toy: \d+/12, [\d.e+]+ images/s, \d+ s left  l1 0.5 a 1 b 2 c 3"
    assert all(re.fullmatch(progress, line) for line in lines[:-3])
    assert re.fullmatch(r"toy: at step 12: psnr 21 \(\d+% of the time so far went into evaluation\)", lines[-3])
    assert lines[-1] == "toy: already finished, 12 steps"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"log_every": 0}, "log_every is 0; it must be at least 1"),
        ({"save_every": -1}, "save_every is -1; it must be at least 0"),
        ({"max_skipped": 0}, "max_skipped is 0; it must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        replace(LOOP, **change)


def test_the_toy_is_a_stage():
    assert isinstance(Toy(), Stage)
