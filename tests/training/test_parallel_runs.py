"""Whole runs on two processes: one of them writes, both return the same, and what is held out is shared."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from tests.training.tiny import generator, held_out, run_autoencoder, run_main, run_post, tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from robustok.generators.sampling import Sampling
from robustok.runtime.checkpoint import load_model, load_resume
from robustok.runtime.logging import MetricsLog
from robustok.training.shared_sampling import sample_together

RUNS = {"main": run_main, "autoencoder": run_autoencoder, "post": run_post}


def shared() -> dict[str, float | Tensor]:
    """Work that processes share: the distance of 64 images in 4 batches, and 5 samples."""
    with patch("robustok.training.held_out.BATCH", 20):
        distance = held_out()(tokenizer().decoder)
    return {"distance": distance, "tokens": sample_together(generator(), torch.arange(5), Sampling(), seed=0)}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, run in RUNS.items():
        (Path(folder) / name).mkdir(exist_ok=True)
        result = run(Path(folder) / name)
        if name == "post":
            torch.save({"before": result.before, "after": result.after, "step": result.step}, f"{folder}/{rank}.pt")
        dist.barrier()
    torch.save(shared(), f"{folder}/shared_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    start_processes(work, (str(folder),), nprocs=2, start_method="forkserver")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_one_process_writes_a_whole_run(folder, name):
    run = folder / name / "run"
    assert load_resume(run / "resume.safetensors")["counts"]["done"] == 8
    assert load_model(run)
    steps = [row["step"] for row in MetricsLog(run).rows()]
    assert steps == sorted(set(steps))
    assert not [path for path in run.rglob("*") if path.suffix in (".partial", ".claim")]
    assert name == "post" or load_model(run / "discriminator", "discriminator")


def test_the_best_decoder_is_the_same_on_both_and_as_good_as_that_of_one_process(folder, tmp_path):
    zero, one = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert zero == one
    alone = run_post(tmp_path)
    assert alone.before == pytest.approx(zero["before"], rel=1e-9)  # the same images, however they are shared
    assert alone.after == pytest.approx(zero["after"], rel=1e-3)  # eight steps of float32 apart


def test_shared_work_comes_to_what_one_process_does(folder):
    alone = shared()
    for rank in (0, 1):
        together = torch.load(folder / f"shared_{rank}.pt", weights_only=True)
        assert together["distance"] == alone["distance"]
        assert torch.equal(together["tokens"], alone["tokens"])


def test_what_two_processes_left_one_goes_on_from(folder):
    before = (folder / "main" / "run" / "model.safetensors").read_bytes()
    run_main(folder / "main")  # nothing is left to do
    assert (folder / "main" / "run" / "model.safetensors").read_bytes() == before
