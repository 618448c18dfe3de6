"""Saves to go on from, stopping on request, and a disk that is full: with the toy."""

import errno
import json
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import LOOP, Kept, Toy, at_call, batches, die, ends_at, final, rows, same, start, train
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from robustok.runtime import checkpoint, stopping
from robustok.runtime.checkpoint import load_resume
from robustok.runtime.configs import to_plain
from robustok.runtime.writing import Writer
from robustok.training import saving
from robustok.training.discriminator_training import Adversarial
from robustok.training.loop import run
from robustok.training.saving import Saves, deciding


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder)
    return folder


# The last saves


def done_in(path: Path) -> int:
    return int(load_resume(path)["counts"]["done"])


def test_the_last_saves_are_kept_and_any_of_them_can_be_gone_on_from(straight: Path, tmp_path: Path):
    config = replace(LOOP, save_every=3, keep_last=2)
    train(tmp_path, config=config)
    kept = {path.name: done_in(path) for path in tmp_path.glob("resume*")}
    assert kept == {"resume.safetensors": 12, "resume_0000012.safetensors": 12, "resume_0000009.safetensors": 9}
    assert (tmp_path / "resume.safetensors").samefile(tmp_path / "resume_0000012.safetensors")  # takes no room
    (tmp_path / "resume_0000009.safetensors").rename(tmp_path / "resume.safetensors")
    train(tmp_path, config=replace(config, keep_last=1))
    assert [path.name for path in tmp_path.glob("resume*")] == ["resume.safetensors"]
    assert same(final(straight), final(tmp_path))
    assert rows(straight) == rows(tmp_path)


def test_saves_of_a_future_that_comes_again_are_dropped(tmp_path: Path):
    train(tmp_path, config=replace(LOOP, save_every=3, keep_last=4))
    (tmp_path / "resume_0000003.safetensors").rename(tmp_path / "resume.safetensors")
    with pytest.raises(ValueError, match="no more"):
        run(Toy(), ends_at(7), replace(LOOP, save_every=2, keep_last=4), tmp_path, name="toy", quiet=True)
    assert sorted(path.name for path in tmp_path.glob("resume_*")) == [f"resume_{n:07d}.safetensors" for n in (4, 6)]


def test_where_there_are_no_links_saves_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", none)
    train(tmp_path, config=replace(LOOP, keep_last=2))
    assert {path.name[6:-12]: done_in(path) for path in tmp_path.glob("resume*")} == {
        "": 12,
        "_0000012": 12,
        "_0000008": 8,
    }


def test_a_damaged_save_says_which_older_one_there_is(tmp_path: Path):
    train(tmp_path, config=replace(LOOP, keep_last=2))
    (tmp_path / "resume.safetensors").unlink()
    (tmp_path / "resume.safetensors").write_bytes(b"\x20" + bytes(7) + b'{"step')
    with pytest.raises(
        ValueError, match=r"cut short .*; or delete it to start afresh; or rename resume_0000012.* beside"
    ):
        train(tmp_path, config=replace(LOOP, keep_last=2))


def test_how_often_to_look_save_and_tell_is_no_other_run():
    loop = {"type": "Loop", "steps": 5, "batch_size": 2, "seed": 0}
    old = {"stage": {"loop": loop | {"log_every": 50}, "optim": {"log_every": 1}}, "sizes": [1, {"type": "Loop"}]}
    new = {"stage": {"loop": loop | {"log_every": 10, "tracker": ["wandb"]}, "optim": {"log_every": 1}}}
    assert deciding(old) == deciding(new | {"sizes": (1, {"type": "Loop", "keep_last": 3})})
    assert deciding(old) != deciding(new | {"sizes": [2, {"type": "Loop"}]})
    assert deciding({"loop": loop}) != deciding({"loop": loop | {"seed": 1}})


# Killed while a save is written in the background


def half_a_file(tensors: Any, path: Path, metadata: Any) -> None:
    """Write the beginning of a file, let training go on for some steps, and die."""
    path.write_bytes(b"\x20" + bytes(7) + b'{"step')
    time.sleep(0.05)
    die()


def train_and_die(folder: Path, number: int) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(checkpoint, "save_file", at_call(number, half_a_file, checkpoint.save_file))
    train(folder)


@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_during_a_background_save_leaves_the_one_before(number: int, straight: Path, tmp_path: Path):
    child = start(train_and_die, tmp_path, number)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (tmp_path / "resume.safetensors").exists() == (number == 2)
    assert number == 1 or done_in(tmp_path / "resume.safetensors") == 4
    train(tmp_path)
    assert same(final(straight), final(tmp_path))
    assert rows(straight) == rows(tmp_path)


def test_training_goes_on_while_a_save_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path):
    taken = list[int]()
    write, seen = checkpoint.save_file, list[int]()

    class Counting(Toy):
        def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
            taken.append(step)
            return super().step(batch, step)

    def slow(tensors: Any, path: Path, metadata: Any) -> None:
        deadline = time.monotonic() + 5
        while len(taken) < 6 and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(len(taken))
        write(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    train(tmp_path, Counting())
    assert seen[0] >= 6  # the save of step 4 was under way then
    assert same(final(straight), final(tmp_path))


# A full disk


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_in_the_background_ends_the_run_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "save_file", at_call(2, full, checkpoint.save_file))
    taken = []

    class Slow(Toy):
        def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
            time.sleep(0.02)
            taken.append(step)
            return super().step(batch, step)

    with pytest.raises(OSError, match=r"could not write .*resume.safetensors .*No space.*unchanged; make room"):
        train(tmp_path, Slow())
    assert len(taken) < LOOP.steps
    assert done_in(tmp_path / "resume.safetensors") == 4


def test_a_disk_that_is_full_at_the_last_save_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "save_file", at_call(3, full, checkpoint.save_file))
    with pytest.raises(OSError, match="No space left on device"):
        train(tmp_path)
    assert done_in(tmp_path / "resume.safetensors") == 8


@pytest.mark.parametrize("file", ["metrics.jsonl", "previews", "run.json", "best"])
def test_whatever_cannot_be_written_is_the_error(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "place").mkdir()
    blocked = tmp_path / "place" / ("best.partial" if file == "best" else file)
    if file in ("previews", "best"):
        blocked.write_text("in the way")
    else:
        blocked.mkdir()
    options = {"preview": lambda done: {"gray": torch.zeros(3, 2, 2)}, "validate": lambda done: {"pfid": 1.0}}
    with pytest.raises(OSError, match=file):
        train(tmp_path / "place", config=replace(LOOP, preview_every=2), **options, validate_every=3, model=Kept)


def fill(folder: Path) -> None:
    """Train where files may have 200 kB, in the child of a test; exit with 3 when the error is the right one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class Growing(Toy):
        def state_dict(self) -> dict[str, Any]:
            return super().state_dict() | {"ballast": torch.zeros(self.ema.updates * 8000)}

    try:
        train(folder, Growing())
    except OSError as error:
        raise SystemExit(3 if "the file there is unchanged; make room" in str(error) else 4) from error


def test_a_disk_that_fills_up_leaves_the_last_save_that_fitted(tmp_path: Path):
    child = start(fill, tmp_path)
    child.join(60)
    assert child.exitcode == 3
    assert done_in(tmp_path / "resume.safetensors") == 4
    assert not list(tmp_path.glob("*.partial"))


def full_on_two_ranks(rank: int, folder: Path) -> None:
    """The disk of rank 0 is full at the second save; rank 1 says nothing and exits with 1."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    if rank == 0:
        checkpoint.save_file = at_call(2, full, checkpoint.save_file)
        with pytest.raises(OSError, match="No space left on device"):
            train(folder)
    else:
        with pytest.raises(SystemExit) as caught:
            train(folder)
        assert caught.value.code == 1
    torch.distributed.destroy_process_group()


def test_a_full_disk_stops_all_ranks_and_one_says_why(tmp_path: Path):
    start_processes(full_on_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    assert done_in(tmp_path / "resume.safetensors") == 4


# Asked to stop


class Obedient(Toy):
    """Is sent a signal during a step."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__()
        self.number, self.at = number, at

    def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().step(batch, step)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_run_that_is_asked_to_stop_saves_first(
    number: int, ends: type, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(ends) as caught:
        run(Obedient(number, 5), batches, LOOP, tmp_path, name="toy")
    assert ends is KeyboardInterrupt or caught.value.code == 143  # type: ignore[attr-defined]
    assert f"toy: stopped by {signal.Signals(number).name} after step 6, which is saved" in capsys.readouterr().out
    assert done_in(tmp_path / "resume.safetensors") == 6
    train(tmp_path)
    assert same(final(straight), final(tmp_path))
    assert rows(straight) == rows(tmp_path)


def test_asked_during_the_last_step_a_run_is_finished(tmp_path: Path):
    train(tmp_path, Obedient(signal.SIGTERM, LOOP.steps - 1))
    assert done_in(tmp_path / "resume.safetensors") == LOOP.steps


def test_ctrl_c_twice_stops_at_once_and_the_last_save_stays(tmp_path: Path):
    class Impatient(Obedient):
        def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
            if step == self.at:
                os.kill(os.getpid(), self.number)
            return super().step(batch, step)  # which sends another

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Impatient(signal.SIGINT, 9))
    assert done_in(tmp_path / "resume.safetensors") == 8


def stopped_on_two_ranks(rank: int, folder: Path) -> None:
    """Only rank 1 is told to stop; both do, after the same step."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with pytest.raises(SystemExit) as caught:
        train(folder, Obedient(signal.SIGTERM, 5) if rank else Toy())
    assert caught.value.code == 143
    torch.distributed.destroy_process_group()


def test_ranks_stop_together_when_one_is_asked_to(tmp_path: Path):
    start_processes(stopped_on_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    assert done_in(tmp_path / "resume.safetensors") == 6


def on_disks_of_their_own(rank: int, folder: Path) -> None:
    """Rank 1 finds another folder than rank 0, which has a save."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with pytest.raises(ValueError, match=r"different steps for different processes \(12, 0\); give a folder on a disk"):
        train(folder / str(rank))
    torch.distributed.destroy_process_group()


def test_ranks_that_find_different_saves_say_so(tmp_path: Path):
    train(tmp_path / "0")
    start_processes(on_disks_of_their_own, (tmp_path,), nprocs=2, start_method="forkserver")


def test_a_save_of_many_ranks_is_one_file_for_any_number(tmp_path: Path):
    """What two ranks wrote, one goes on from; that the numbers agree is tested with each stage."""
    with pytest.raises(ProcessExitedException):
        start_processes(killed_on_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    assert done_in(tmp_path / "resume.safetensors") in (4, 8)
    train(tmp_path)
    assert done_in(tmp_path / "resume.safetensors") == LOOP.steps
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 12]


def killed_on_two_ranks(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    train(folder, Obedient(signal.SIGKILL, 9))


def cut_over_two_ranks(rank: int, folder: Path) -> None:
    """A save of a tensor of 5 rows of which rank 0 holds 3 and rank 1 holds 2, as FSDP cuts it."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    cut = distribute_tensor(torch.arange(15.0).view(5, 3), mesh, [Shard(0)])
    assert len(cut.to_local()) == (2, 3)[rank == 0]
    with Writer() as files:
        Saves(folder, {}).save({"stage": {"w": cut, "step": 3}, "counts": {"done": 1}}, 1, files)
        files.wait()
        files.raise_if(files.failed)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_what_fsdp_cut_is_saved_whole_for_any_number_of_processes(tmp_path: Path):
    start_processes(cut_over_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    saved = Saves(tmp_path, {}).load()
    assert saved is not None
    assert torch.equal(saved["stage"]["w"], torch.arange(15.0).view(5, 3))
    assert saved["stage"]["step"] == 3


def test_a_run_of_an_older_version_is_gone_on_with(straight: Path, tmp_path: Path):
    """Counts of that time know neither what evaluation took nor a best model."""
    with pytest.raises(ValueError, match="no more"):
        run(Toy(), ends_at(9), LOOP, tmp_path, name="toy", quiet=True)
    saved = load_resume(tmp_path / "resume.safetensors")
    for name in ("evaluation_seconds", "best"):
        del saved["counts"][name]
    checkpoint.save_resume(tmp_path / "resume.safetensors", saved)
    train(tmp_path)
    assert same(final(straight), final(tmp_path))


def test_a_save_is_refused_by_another_run(tmp_path: Path):
    train(tmp_path, config=replace(LOOP, steps=2))
    saved = Saves(tmp_path, {"loop": {"steps": 2, "batch_size": 4, "seed": 3}}).load()
    assert saved is not None
    assert saved["counts"]["done"] == 2
    with pytest.raises(ValueError, match=r"another|other settings \(loop.steps: 2 in the folder, 3 now\)"):
        Saves(tmp_path, {"loop": {"steps": 3, "batch_size": 4, "seed": 3}}).load()
    assert json.loads((tmp_path / saving.RUN).read_text())["loop"]["steps"] == 2
    assert stopping.SIGNALS == (signal.SIGINT, signal.SIGTERM)


def test_a_run_of_a_version_without_a_setting_goes_on_where_that_is_at_its_default(tmp_path: Path):
    def saves(**changes: Any) -> Saves:
        return Saves(tmp_path, {"stage": to_plain(Adversarial(**changes))})

    older = dict(saves().settings["stage"])
    del older["adaptive_max"]
    with Writer() as files:
        Saves(tmp_path, {"stage": older}).save({"stage": {}, "counts": {"done": 1}}, 1, files)
    saved = saves().load()
    assert saved is not None
    assert saved["counts"]["done"] == 1
    with pytest.raises(ValueError, match=r"\(stage.adaptive_max: 10000.0 in the folder, 0.5 now\)"):
        saves(adaptive_max=0.5).load()
