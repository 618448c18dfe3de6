"""The main process's writing: in the background, one piece at a time, and what follows when the disk is full."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustok.runtime import writing
from robustok.runtime.checkpoint import load_resume, save_resume
from robustok.runtime.writing import Writer, snapshot


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_snapshot_is_of_the_moment():
    weight = torch.arange(6.0).view(1, 2, 1, 3).to(memory_format=torch.channels_last)
    state = {"model": {"w": weight, 0: [weight[0], (3, "a", None)]}}
    copy = snapshot(state)
    weight.zero_()
    expected = torch.arange(6.0).view(1, 2, 1, 3)
    assert torch.equal(copy["model"]["w"], expected)
    assert torch.equal(copy["model"][0][0], expected[0])
    assert copy["model"][0][1] == (3, "a", None)
    assert copy["model"]["w"].is_contiguous()


def test_what_fsdp_cut_is_put_together_by_all_and_kept_by_the_main_process(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def whole(tensor: Tensor) -> Tensor:
        asked.append(tensor.shape)
        return torch.cat([tensor, tensor])

    monkeypatch.setattr(writing, "whole", whole)
    assert torch.equal(snapshot([torch.ones(2)])[0], torch.ones(4))
    monkeypatch.setattr(writing, "is_main", lambda: False)
    assert snapshot({"a": torch.ones(2), "step": 3}) == {"a": None, "step": 3}
    assert len(asked) == 2  # a process that stays away would leave the others waiting


def test_work_goes_on_in_the_background_one_piece_at_a_time():
    may_end, order = threading.Event(), list[str]()

    def slow() -> None:
        assert may_end.wait(5)
        order.append("first")

    with Writer() as files:
        files.later(slow)
        order.append("training")
        may_end.set()
        files.later(lambda: order.append("second"))
        assert not files.failed
    assert order == ["training", "first", "second"]  # the last one, too, is done when the block ends


@pytest.mark.parametrize("later", [False, True])
def test_a_failure_is_kept_until_all_ask_and_nothing_is_written_after_it(later: bool, tmp_path: Path):
    with Writer() as files:
        (files.later if later else files.now)(full)
        files.wait()
        assert files.failed
        for write in (files.now, files.later):
            write(lambda: save_resume(tmp_path / "r", {}))
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.raise_if(False)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_failure_in_the_background_is_known_when_it_has_happened():
    with Writer() as files:
        files.later(full)
        while not files.failed:
            pass
        with pytest.raises(OSError, match="No space"):
            files.raise_if(True)


def test_other_processes_write_nothing_and_leave_without_a_word(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "is_main", lambda: False)

    def never(*_: Any) -> None:
        raise AssertionError

    with Writer() as files:
        files.now(never)
        files.later(never)
        files.raise_if(False)
        with pytest.raises(SystemExit) as caught:
            files.raise_if(True)
    assert caught.value.code == 1


def test_a_state_that_changes_while_it_is_written_is_saved_as_it_was(tmp_path: Path):
    weight, may_write = torch.zeros(1000), threading.Event()

    def write(state: Any) -> None:
        assert may_write.wait(5)
        save_resume(tmp_path / "r", state)

    with Writer() as files:
        state = snapshot({"weight": weight})
        files.later(lambda: write(state))
        weight.fill_(1)
        may_write.set()
    assert not load_resume(tmp_path / "r")["weight"].any()
