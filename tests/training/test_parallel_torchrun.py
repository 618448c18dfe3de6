"""As users start it: torchrun, a process that is killed and started again, and an error that is told once."""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

from robustok.runtime.checkpoint import load_model, load_resume
from robustok.runtime.logging import MetricsLog

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Done(NamedTuple):
    returncode: int | None
    stderr: str


def launch(words: list[str], told: Path) -> None:
    """What the command `torchrun` calls, in a process of its own that need not import torch anew, as its workers do."""
    from torch.distributed.run import main

    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with told.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    main(words)


def torchrun(told: Path, *words: object) -> Done:
    argv = ["--standalone", "--nproc-per-node", "2", *map(str, words)]
    process = multiprocessing.get_context("forkserver").Process(target=launch, args=(argv, told))
    process.start()
    process.join(500)
    process.terminate()  # if it still runs; its workers with it
    return Done(process.exitcode, told.read_text())


def test_torchrun_goes_on_from_the_last_save_when_a_process_is_killed(tmp_path: Path):
    done = torchrun(tmp_path / "told", "--max-restarts", 1, HERE / "restarted_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_resume(tmp_path / "run" / "resume.safetensors")["counts"]["done"] == 8
    assert load_model(tmp_path / "run", "generator")
    steps = [row["step"] for row in MetricsLog(tmp_path / "run").rows()]
    assert steps == sorted(set(steps)) == [2, 4, 6, 8]
    for rank in (0, 1):
        taken = [int(line) for line in (tmp_path / f"steps_{rank}").read_text().split()]
        begun = taken.index(3, taken.index(3) + 1)  # again, after the save of three steps
        assert taken[begun:] == [3, 4, 5, 6, 7]


def test_an_error_of_all_processes_is_told_once(tmp_path: Path):
    words = ("train-tokenizer", "smoke", "--images", "fashion-mnist", "--loop.batch_size", 1, "--out", tmp_path / "run")
    done = torchrun(tmp_path / "told", "-m", "robustok", *words)
    assert done.returncode != 0
    told = "robustok train-tokenizer: a batch of 1 in 1 micro-batches leaves one of 2 processes without any"
    assert done.stderr.count(told) == done.stderr.count("robustok train-tokenizer") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
