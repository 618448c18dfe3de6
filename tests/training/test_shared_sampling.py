"""Samples that are drawn once: what is in the file is what was asked for, or it is drawn anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import generator
from torch import Tensor

from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.seeding import derive
from robustok.training import shared_sampling
from robustok.training.shared_sampling import sampled, sampled_in

LABELS, PLAIN = torch.arange(6), Sampling()


def draw(path: Path, labels: Tensor = LABELS, sampling: Sampling = PLAIN, seed: int = 3, **how: Any) -> Tensor:
    how = {"purpose": "held-out samples", "precision": "fp32", "quiet": True} | how
    return sampled(path / "drawn.safetensors", generator(), labels, sampling, seed, **how)


def test_they_are_those_of_their_seed_and_purpose(tmp_path):
    plain = sample_tokens(generator(), LABELS, Sampling(), seed=derive(3, "held-out samples"))
    assert torch.equal(draw(tmp_path), plain)


def test_they_are_read_back_and_not_drawn_again(tmp_path, monkeypatch):
    first = draw(tmp_path)
    monkeypatch.setattr(shared_sampling, "sample_together", None)
    assert torch.equal(draw(tmp_path), first)


@pytest.mark.parametrize(
    "other",
    [
        {"labels": LABELS + 1},
        {"sampling": Sampling(temperature=2.0)},
        {"seed": 4},
        {"purpose": "scored samples"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_samples_of_another_kind_are_drawn_anew(other, tmp_path):
    drawn, path = draw(tmp_path), tmp_path / "drawn.safetensors"
    before = path.read_bytes()
    assert draw(tmp_path, **other).shape == drawn.shape
    assert path.read_bytes() != before
    assert sampled_in(path) == ("bfloat16" if "precision" in other else "float32")


def test_a_file_that_does_not_say_is_not_trusted(tmp_path):
    assert sampled_in(tmp_path / "none.safetensors") == "unknown"


@pytest.mark.parametrize("left", [0, 20, -10])
def test_a_damaged_file_is_drawn_anew(left, tmp_path):
    """As a copy that was cut short leaves it: a run that went on ended with an error of ours."""
    drawn, path = draw(tmp_path).clone(), tmp_path / "drawn.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert torch.equal(draw(tmp_path), drawn)
    assert path.read_bytes() == whole


def test_a_file_of_which_a_byte_changed_is_drawn_anew(tmp_path):
    drawn, path = draw(tmp_path).clone(), tmp_path / "drawn.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    assert torch.equal(draw(tmp_path), drawn)
    assert path.read_bytes() == whole
