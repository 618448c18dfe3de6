"""The benchmark of training steps: its search for a batch, and its whole path on tiny twins."""

import pytest
import torch
import training_steps
from training_steps import Measured, largest


@pytest.mark.parametrize("room", [1, 7, 50, 100, 128, 1000])
@pytest.mark.parametrize("guess", [0, 40, 100, 300])
def test_the_largest_batch_is_found_from_any_guess(room, guess):
    tried = []

    def attempt(batch):
        tried.append(batch)
        return Measured(batch, 1.0, 0) if batch <= room else None

    if guess // 32 > room:  # six tries do not go down so far
        with pytest.raises(ValueError, match="not even the smallest batch that was tried fits"):
            largest(attempt, guess, most=512)
        return
    found = largest(attempt, guess, most=512).batch
    assert found <= min(room, 512)
    assert len(tried) <= training_steps.TRIES
    assert len(set(tried)) == len(tried)
    if room / 1.1 <= guess <= 1.1 * room:
        assert found >= 0.9 * min(room, 512)


def test_memory_that_runs_out_is_no_error(monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(training_steps, "measure", too_much)
    assert training_steps.attempt(None, None, 1, torch.device("cpu"), 1) is None


def test_the_whole_path_runs_on_tiny_twins(capsys):
    training_steps.main(["--smoke", "--batch", "8", "--steps", "1", "--only", "RAR"])
    table = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
    assert len(table) == 2 + 2
    heading, eager = ([cell.strip() for cell in row.strip("|").split("|")] for row in (table[0], table[2]))
    row = dict(zip(heading, eager, strict=True))
    assert (row["step"], row["how"], row["images"]) == ("RAR-L, generator", "eager, float32", "8")
    assert float(row["images/s"].replace(",", "")) > 0
    assert 0 < float(row["share of the peak"].rstrip("%")) < 100


def test_every_case_can_be_built():
    for case in (*training_steps.full("-smoke"), *training_steps.demo()):
        stage, batch = training_steps.ready(case, torch.device("cpu"), 4)
        assert len(batch[0] if isinstance(batch, tuple) else batch) == 4
        assert hasattr(stage, "step")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_what_can_be_done(capsys):
    with pytest.raises(SystemExit):
        training_steps.main([])
    assert "--smoke tries the path on a CPU" in capsys.readouterr().err
