"""A run's folder: what an earlier run left in it, and another that trains in it: with the toy."""

import re
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import LOOP, Constant, Toy, ends_at, final, rows, same, start, train
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from robustok.runtime.checkpoint import load_resume
from robustok.runtime.locking import TRAINING, claim
from robustok.training.loop import run
from robustok.training.saving import RESUME


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder)
    return folder


# What an earlier run left


class Remembered:
    """A model that is kept where it is the best."""

    def save_pretrained(self, folder: Path, **about: Any) -> None:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()


def test_a_start_afresh_is_not_made_beside_what_another_run_left(tmp_path: Path):
    """The save is gone, as the error advises; its best model and previews would stand beside the new ones."""

    def trained(steps: int) -> None:
        options = {"validate": lambda done: {"pfid": 1.0}, "model": Remembered, "validate_every": 2}
        look = {"preview": lambda done: {"gray": torch.zeros(3, 2, 2)}}
        train(tmp_path, config=replace(LOOP, steps=steps, preview_every=2), **options, **look)

    trained(4)
    (tmp_path / "discriminator").mkdir()
    whole = [tmp_path / name for name in ("resume.safetensors", "best", "previews", "discriminator")]
    gone = ", ".join(map(str, whole))
    with pytest.raises(ValueError, match=rf"or delete {re.escape(gone)} to start afresh"):
        trained(2)
    whole[0].unlink()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ValueError, match=r"what a run with other settings left, without the resume.safetensors"
    ) as told:
        trained(2)
    assert all(str(path) in str(told.value) and path.exists() for path in whole[1:])
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    trained(4)  # the same run may begin again: it makes the same
    whole[0].unlink()
    for path in whole[1:]:
        shutil.rmtree(path)
    trained(2)
    assert [row["step"] for row in rows(tmp_path)] == [2]


def test_what_is_known_before_the_first_step_is_row_0_of_a_new_run_only(tmp_path: Path):
    asked = []

    def first() -> dict[str, float]:
        asked.append(len(asked))
        return {"start": float(asked[-1])}

    with pytest.raises(ValueError, match="no more"):
        run(Toy(), ends_at(7), LOOP, tmp_path, name="toy", first=first, quiet=True)
    train(tmp_path, first=first)
    assert asked == [0]
    assert rows(tmp_path)[0] == {"step": 0, "start": 0.0}
    (tmp_path / "resume.safetensors").unlink()
    train(tmp_path, first=first)
    assert [row["step"] for row in rows(tmp_path)] == [0, 3, 6, 9, 12]
    assert rows(tmp_path)[0] == {"step": 0, "start": 1.0}


# Two runs in one folder


def train_until_killed(folder: Path, begun: Path) -> None:
    class Endless(Toy):
        def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
            if step == 2:
                begun.touch()
                signal.pause()
            return super().step(batch, step)

    train(folder, Endless())


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_stops_nobody(straight: Path, tmp_path: Path):
    folder, begun = tmp_path / "run", tmp_path / "begun"
    child = start(train_until_killed, folder, begun)
    while not begun.exists():
        time.sleep(0.002)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in (folder, tmp_path / "." / "run"):
        with pytest.raises(ValueError, match=rf"another process trains in {folder}; wait until it has ended"):
            train(name)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    child.kill()
    child.join()
    train(folder)
    assert same(final(straight), final(folder))
    assert rows(straight) == rows(folder)
    assert not list(folder.glob("*.claim"))


def on_two_ranks_together(rank: int, folder: Path) -> None:
    """Both ranks of one run train in the folder; then rank 0 finds it in use, and both say so."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stage = Constant(lambda step: {"l1": 1.0})
    train(folder / "run", stage)
    held = claim(folder / "run" / TRAINING) if rank == 0 else nullcontext(True)
    with held as mine:
        assert mine
        with pytest.raises(ValueError, match="another process trains in"):
            train(folder / "run", stage)
    torch.distributed.destroy_process_group()


def test_the_processes_of_one_run_hold_its_folder_together(tmp_path: Path):
    start_processes(on_two_ranks_together, (tmp_path,), nprocs=2, start_method="forkserver")


def test_a_run_that_has_had_enough_ends_there_and_goes_on_from_there(straight, tmp_path):
    """In two parts it is the same as in one; asked again where it is enough already, no step is taken."""
    parts = tmp_path / "parts"
    for _ in range(2):
        train(parts, enough=lambda done: done >= 5)
        assert load_resume(parts / RESUME)["counts"]["done"] == 5
    train(parts)
    assert rows(parts) == rows(straight)
    assert same(final(parts), final(straight))
