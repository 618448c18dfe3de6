"""Each stage, killed for real and started again, ends bitwise where an uninterrupted run ends."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.training.tiny import STAGES

from robustok.runtime.checkpoint import load_resume
from robustok.runtime.logging import MetricsLog
from robustok.training import loop


def killed_at(name: str, folder: Path, step: int) -> None:
    """Run a stage in this process, which dies by SIGKILL after so many steps and its first save."""
    torch.set_num_threads(1)
    real, seen, saved = loop.prefetched, 0, folder / "run" / "resume.safetensors"

    def deadly(*arguments: object) -> object:
        nonlocal seen
        for batch in real(*arguments):  # type: ignore[arg-type]
            if seen == step:
                while not saved.exists():  # it is written beside the steps, which may be faster
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            yield batch

    loop.prefetched = deadly  # type: ignore[assignment]
    STAGES[name](folder)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_ends_bitwise_as_if_nothing_had_happened(name, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        STAGES[name](tmp_path / "straight")
        context = multiprocessing.get_context("forkserver")
        child = context.Process(target=killed_at, args=(name, tmp_path / "killed", 5))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        assert load_resume(tmp_path / "killed" / "run" / "resume.safetensors")["counts"]["done"] == 3
        STAGES[name](tmp_path / "killed")
    finally:
        torch.set_num_threads(threads)
    straight, resumed = (
        load_resume(tmp_path / how / "run" / "resume.safetensors")["stage"] for how in ("straight", "killed")
    )
    assert same(straight, resumed)
    models = [(tmp_path / how / "run" / "model.safetensors").read_bytes() for how in ("straight", "killed")]
    assert models[0] == models[1]
    steps = [row["step"] for row in MetricsLog(tmp_path / "killed" / "run").rows()]
    assert steps == sorted(set(steps))
