"""The study of main training: a tiny one runs to its end, goes on, and shares a generator between equal tokens."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import main_training_study as study
import study_spaces

from robustok.data.images import FashionMNIST
from robustok.evaluation.features import CustomExtractor

TINY = study.Size(
    held_out=200,
    tokenizer_steps=16,
    generator_steps=16,
    classifier_steps=4,
    looked_at=20,
    perturbed=20,
    tuned_by=20,
    along=20,
    generated=30,
    compared=20,
)


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_tiny_study_measures_every_arm_once_and_shares_the_generator_of_equal_tokens(tmp_path, monkeypatch):
    def coarse(pixels: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(pixels[:, :1].float(), 7).flatten(1)

    monkeypatch.setattr(study, "spaces", lambda *_: {"lite0": CustomExtractor(coarse)})
    runs, results = tmp_path / "runs", tmp_path / "results"
    queue = [("two phases", 0), ("two phases, clean", 0)]
    study.run(runs, results, TINY, queue)
    robust, clean = (json.loads((results / f"{study.file_name(*entry)}.json").read_text()) for entry in queue)
    assert robust["tokens_of"] == clean["tokens_of"]  # the second phase does not touch encoder and codebook
    assert len(list((runs / "generators").iterdir())) == 1
    assert robust["generator"] == clean["generator"]
    assert robust["gfid"] != clean["gfid"]
    assert {f"gfid at {step}" for step in (2, 4, 8, 12, 16)} <= robust.keys()

    monkeypatch.setattr(study, "run_arm", lambda *_: pytest.fail("a finished arm is not computed again"))
    study.run(runs, results, TINY, queue)


def test_a_classifier_is_trained_once_and_says_how_good_it_is(tmp_path):
    images = FashionMNIST("train", 28).subset(torch.arange(512))
    first = study_spaces.classifier("perceptron", images, images, tmp_path, steps=12)
    again = study_spaces.classifier("perceptron", images, images, tmp_path, steps=12)
    pixels = study.pixels_of(images, torch.arange(20))
    assert torch.equal(first(pixels), again(pixels))
    assert first.describe()["accuracy"] > 0.5  # a tenth by chance
