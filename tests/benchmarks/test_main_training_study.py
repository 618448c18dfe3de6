"""The study of main training: a tiny one runs to its end, goes on, and shares a generator between equal tokens."""

import json
from pathlib import Path

import main_training_arms as arms
import main_training_more as more
import main_training_scores as scores
import main_training_study as study
import pytest
import study_spaces
import torch
import torch.nn.functional as F

from robustok.data.images import FashionMNIST
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.tokenizer.encoder import Conv

TINY = arms.Size(
    train=160,
    validation=100,
    held_out=200,
    tokenizer_steps=8,
    generator_steps=8,
    classifier_steps=4,
    looked_at=20,
    perturbed=10,
    tuned_by=10,
    along=10,
    generated=20,
    compared=10,
)


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 7).flatten(1)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(scores, "spaces", lambda *_: {"lite0": CustomExtractor(coarse)})
    monkeypatch.setattr(arms, "SAVED", 2)
    monkeypatch.setattr(arms, "Conv", lambda **sizes: Conv(**sizes | {"channels": (16, 32, 32)}))


def result(folder: Path, arm: str) -> dict:
    return json.loads((folder / f"{arms.file_name(arm, 0)}.json").read_text())


def test_a_tiny_study_measures_every_arm_once_and_shares_what_is_the_same(tiny, tmp_path, monkeypatch):
    runs, results = tmp_path / "runs", tmp_path / "results"
    queue = [("two phases", 0), ("two phases, as it samples", 0)]
    study.run(runs, results, TINY, queue)
    robust, imitating = (result(results, arm) for arm, _ in queue)
    assert robust["tokens_of"] == imitating["tokens_of"]  # the second phase leaves them alone
    assert len(list((runs / "generators").iterdir())) == 1
    assert robust["generator"] == imitating["generator"]
    assert robust["gfid"] != imitating["gfid"]
    assert {f"gfid at {step}" for step in (1, 2, 4, 6, 8)} <= robust.keys()
    cell = imitating["calibration"]
    assert imitating["settings"]["perturbation"]["alpha"] == cell["alpha"]
    assert imitating["settings"]["perturbation"]["delta"] == cell["delta"]

    monkeypatch.setattr(more, "extractor", lambda name: CustomExtractor(lambda pixels: coarse(pixels)[:, :4], name))
    more.score(runs, results, TINY, ["corner"])
    more.post_train(runs, results, TINY)
    tuned = result(results, "two phases")
    assert set(tuned["gfid"]) == set(tuned["precision_recall"]) == {"lite0", "corner"}
    assert tuned["gfid"]["lite0"] == robust["gfid"]["lite0"]
    assert (tuned["post"]["gfid"]["lite0"] == robust["gfid"]["lite0"]) == (tuned["post"]["step"] == 0)

    monkeypatch.setattr(study, "run_arm", lambda *_: pytest.fail("a finished arm is not computed again"))
    study.run(runs, results, TINY, queue)


def test_an_arm_that_takes_over_a_first_phase_ends_as_if_it_had_gone_through_it(tiny, tmp_path):
    judge = scores.Judge(TINY, tmp_path)
    models = {}
    for name, before in {"alone": (), "taking over": ("two phases",)}.items():
        for arm in (*before, "two phases, clean"):
            folder = tmp_path / name / arm
            notes = scores.Notes(folder / "measured.json")
            config = arms.main_training(arms.ARMS[arm], TINY, 0)
            study.go_on_from_first_phase(tmp_path / name / "two phases", config, folder, notes)
            models[name] = study.train_arm_tokenizer(config, judge, folder, notes).state_dict()
        assert ("first_phase_of" in notes.values) == bool(before)
        assert {int(step) for step in notes.values["tokenizer_loss"]} == set(range(1, 9))
    assert all(torch.equal(value, models["taking over"][key]) for key, value in models["alone"].items())


def test_a_classifier_is_trained_once_and_says_how_good_it_is(tmp_path):
    images = FashionMNIST("train", 28).subset(torch.arange(512))
    first = study_spaces.classifier("perceptron", images, images, tmp_path, steps=12)
    again = study_spaces.classifier("perceptron", images, images, tmp_path, steps=12)
    pixels = scores.pixels_of(images, torch.arange(20))
    assert torch.equal(first(pixels), again(pixels))
    assert first.describe()["accuracy"] > 0.5  # a tenth by chance
