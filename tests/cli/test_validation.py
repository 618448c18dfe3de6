"""What is typed about looking at a model while it trains, and about where that is told."""

from pathlib import Path

import pytest
import torch
from tests.training.tiny import extract  # features of 48 numbers, whose distances cost nothing

from robustok.cli import images, main, scoring, validation
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.scores.fdr6 import IMAGENET_256
from robustok.evaluation.scores.score import Score
from robustok.runtime.checkpoint import read_json
from robustok.runtime.logging import MetricsLog
from robustok.training.validation import STEPS_FILE, tokenizer_validation

EMBEDDED = ["--images", "fashion-mnist", "--device", "cpu", "--quiet"]
SHORT = ["--loop.steps", "2", "--loop.batch_size", "4", "--validate-every", "1"]


def test_training_is_watched_told_and_the_best_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = images.images_of
    monkeypatch.setattr(images, "images_of", lambda *a, **k: whole(*a, **k).subset(torch.arange(60)))
    monkeypatch.setattr(
        validation, "tokenizer_validation", lambda *a, **k: tokenizer_validation(*a, **k | {"features": extract()})
    )
    monkeypatch.setattr(scoring, "extractor", lambda name, *a, **k: CustomExtractor(extract(), name))
    tokenizer, generator = str(tmp_path / "tokenizer"), str(tmp_path / "generator")
    narrow = ["--tokenizer.encoder.channels", "[8, 16]", "--tokenizer.decoder.channels", "[8, 16]"]
    plain = ["--objective.perceptual", "0", "--objective.adversarial", "0", "--semantic", "0"]
    looks = [
        "--validation",
        "fashion-mnist",
        "--validate-images",
        "6",
        "--pfid-images",
        "2",
        "--tracker",
        "tensorboard",
    ]
    assert main(["train-tokenizer", "smoke", "--out", tokenizer, *EMBEDDED, *SHORT, *narrow, *plain, *looks]) == 0
    assert [row["step"] for row in MetricsLog(tokenizer).rows() if "pfid" in row] == [1, 2]
    assert (
        read_json(tmp_path / "tokenizer" / "best" / "scores.json")[1]["protocol"]["reference"]["split"] == "validation"
    )
    assert list((tmp_path / "tokenizer" / "tensorboard").iterdir())

    small = ["--generator.width", "32", "--generator.heads", "1", "--generator.depth", "1", "--loop.preview_every", "2"]
    looks = ["--reference", "fashion-mnist", "--validate-images", "6"]
    monkeypatch.setattr(scoring, "scored_images", lambda *a, **k: whole("fashion-mnist", 32).subset(torch.arange(20)))
    looks += ["--fdr", "--validate-features", "lite0,clip", "--gfid-below", "1e-9,1e9"]
    best = str(tmp_path / "tokenizer" / "best")
    assert (
        main(["train-generator", "smoke", "--tokenizer", best, "--out", generator, *EMBEDDED, *SHORT, *small, *looks])
        == 0
    )
    assert [row["step"] for row in MetricsLog(generator).rows() if "gfid" in row] == [1, 2]
    rows = [row for row in MetricsLog(generator).rows() if "gfid" in row]
    assert {"gfid", "gfid_clip", "fdr1", "mind", "mind_clip", "precision", "recall"} <= rows[0].keys()
    assert rows[0]["fdr1"] == pytest.approx(rows[0]["gfid_clip"] / IMAGENET_256["clip"]), "lite0 does not belong to it"
    assert read_json(tmp_path / "generator" / "best" / "config.json")["best"]["by"] == "gfid"
    steps, epochs = (Score.from_plain(plain) for plain in read_json(tmp_path / "generator" / STEPS_FILE))
    assert (steps.metric, steps.value, steps.images) == ("steps_to_gfid", 1, 6)
    assert (epochs.metric, epochs.value) == ("epochs_to_gfid", 4 / 60)
    assert (steps.protocol["features"], steps.protocol["at_or_below"], steps.protocol["of"]) == ("lite0", 1e9, "gfid")
    assert (tmp_path / "generator" / "previews" / "samples_0000002.png").is_file()
    assert not (tmp_path / "generator" / "tensorboard").exists()


def test_a_tracker_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]):
    argv = ["train-tokenizer", "smoke", "--out", "nowhere", *EMBEDDED, "--tracker", "wandbb"]
    assert main(argv) == 2
    assert "argument --tracker: invalid choice: 'wandbb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gfid-below", "2"], "--gfid-below is about validations of the generator, so give a --reference"),
        (["--fdr"], "--fdr is about validations of the generator, so give a --reference"),
        (["--gfid-below", "2,none"], "argument --gfid-below: '2,none' are no values; write numbers above 0"),
        (["--gfid-below", "0"], "argument --gfid-below: '0' are no values"),
    ],
)
def test_what_a_generator_is_validated_by_is_checked_before_any_work(words, message, capsys):
    argv = ["train-generator", "smoke", "--tokenizer", "nowhere", "--out", "nowhere", *EMBEDDED, *words]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
