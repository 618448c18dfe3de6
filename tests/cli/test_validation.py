"""What is typed about looking at a model while it trains, and about where that is told."""

from pathlib import Path

import pytest
import torch
from tests.training.tiny import extract  # features of 48 numbers, whose distances cost nothing

from robustok.cli import images, main, validation
from robustok.runtime.checkpoint import read_json
from robustok.runtime.logging import MetricsLog
from robustok.training.validation import tokenizer_validation

EMBEDDED = ["--images", "fashion-mnist", "--device", "cpu", "--quiet"]
SHORT = ["--loop.steps", "2", "--loop.batch_size", "4", "--validate-every", "1"]


def test_training_is_watched_told_and_the_best_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = images.images_of
    monkeypatch.setattr(images, "images_of", lambda *a, **k: whole(*a, **k).subset(torch.arange(60)))
    monkeypatch.setattr(
        validation, "tokenizer_validation", lambda *a, **k: tokenizer_validation(*a, **k | {"features": extract()})
    )
    monkeypatch.setattr(validation, "extractor", lambda *a: extract())
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
    monkeypatch.setattr(
        validation, "scored_images", lambda *a, **k: whole("fashion-mnist", 32).subset(torch.arange(20))
    )
    best = str(tmp_path / "tokenizer" / "best")
    assert (
        main(["train-generator", "smoke", "--tokenizer", best, "--out", generator, *EMBEDDED, *SHORT, *small, *looks])
        == 0
    )
    assert [row["step"] for row in MetricsLog(generator).rows() if "gfid" in row] == [1, 2]
    assert read_json(tmp_path / "generator" / "best" / "config.json")["best"]["by"] == "gfid"
    assert (tmp_path / "generator" / "previews" / "samples_0000002.png").is_file()
    assert not (tmp_path / "generator" / "tensorboard").exists()


def test_a_tracker_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]):
    argv = ["train-tokenizer", "smoke", "--out", "nowhere", *EMBEDDED, "--tracker", "wandbb"]
    assert main(argv) == 2
    assert "argument --tracker: invalid choice: 'wandbb'" in capsys.readouterr().err
