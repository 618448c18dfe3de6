"""What verbs write: the place is tried before the work, nothing is lost, nothing of an earlier run is left among it."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.cli import images, main
from robustok.cli.analyze import Analyze
from robustok.cli.evaluate import Evaluate
from robustok.evaluation.scores.score import Score
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.runtime.checkpoint import write_bytes
from robustok.runtime.places import check_writable
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

QUICK = ["--quiet", "--device", "cpu"]
SIDE = 16


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """A tokenizer and a generator of its tokens, as they are typed."""
    place = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    config = TokenizerConfig(image_size=SIDE, encoder=part, decoder=part, quantizer=VQ(codebook_size=16, width=4))
    tokenizer = Tokenizer(config)
    tokenizer.save_pretrained(place / "tokenizer")
    model = Autoregressive(codebook_size=16, tokens=tokenizer.tokens_per_image, classes=2, width=32, heads=1, depth=1)
    AutoregressiveModel(model).save_pretrained(place / "generator")
    return ["--tokenizer", str(place / "tokenizer"), "--generator", str(place / "generator")]


def refused(capsys, argv) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1), told
    assert "None" not in told.err
    return told.err


# Places


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path):
    (tmp_path / "there.json").write_text("old")
    for path, kind in (("new.json", "file"), ("a/b/new.json", "file"), ("there.json", "file"), ("a/b", "folder")):
        check_writable(tmp_path / path, kind)
    check_writable(tmp_path, "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]
    assert (tmp_path / "there.json").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("folder", "file", "folder is a folder, and a file is to be written; give the name of a file in it"),
        ("file", "folder", "file is a file, and a folder is to be written to"),
        ("file/x.json", "file", "file is a file, so nothing can be written below it"),
        ("file/x/y", "folder", "file is a file, so nothing can be written below it"),
        ("lost/x.json", "file", "lost is a link to nowhere"),
        ("n" * 300, "file", "(File name too long); choose another place"),
        ("x\0y", "folder", "leave the zero byte out"),
    ],
)
def test_a_place_that_cannot_be_written(path, kind, words, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises((ValueError, OSError)) as error:
        check_writable(tmp_path / path, kind)
    assert words in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "lost"]


def test_a_full_disk_is_found_on_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write to .*x.json \(No space left on device\)") as error:
        check_writable(tmp_path / "x.json", "file")
    assert error.value.errno == errno.ENOSPC


def test_devices_stay_devices(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a device or a pipe"):
        check_writable(tmp_path / "pipe", "file")
    with pytest.raises(OSError, match="there is no file that could be replaced"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()


def test_an_error_without_a_number_says_so_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from safetensors import SafetensorError

    from robustok.runtime import checkpoint

    def fails(*arguments: object) -> None:
        raise SafetensorError("I/O error: No space left")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="could not write .* space left") as error:
        checkpoint.save_model(tmp_path, {"x": torch.ones(1)}, {})
    assert "None" not in str(error.value)


BEFORE = [
    (["evaluate", "--generated", "a", "--reference", "b"], "file"),
    (["reference", "--images", "a"], "file"),
    (["compare", "a", "--format", "csv"], "file"),
    (["sample", "--tokenizer", "t", "--generator", "g"], "folder"),
    (["analyze", "--tokenizer", "t", "--generator", "g", "--images", "a"], "folder"),
    (["encode", "--tokenizer", "t", "--images", "a"], "folder"),
    (["train-tokenizer", "smoke", "--images", "a"], "folder"),
    (["train-generator", "smoke", "--tokenizer", "t", "--images", "a"], "folder"),
    (["post-train", "--tokenizer", "t", "--generator", "g", "--images", "a"], "folder"),
    (["demo", "--preset", "smoke"], "folder"),
    (["demo", "--corners"], "folder"),
]


@pytest.mark.parametrize(("argv", "kind"), BEFORE, ids=lambda value: value[0] if isinstance(value, list) else value)
def test_every_verb_tries_the_place_before_anything_else(argv, kind, tmp_path: Path, capsys):
    """None of what is to be read is there, and what is told is that the place cannot be written."""
    (tmp_path / "file").touch()
    assert "so nothing can be written below it" in refused(capsys, [*argv, "--out", str(tmp_path / "file" / "x")])
    other = tmp_path if kind == "file" else tmp_path / "file"
    assert "is to be written" in refused(capsys, [*argv, "--out", str(other)])


def test_export_tries_the_place_before_it_reads(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    words = ["export", "--tokenizer", "nowhere", "--out"]
    assert "below it" in refused(capsys, [*words, str(tmp_path / "file" / "x.safetensors")])
    assert "is already there" in refused(capsys, [*words, str(tmp_path)])


def test_demo_tries_the_usual_place_too(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustok.demo.run.run_demo", None)
    Path("runs").touch()
    assert "runs is a file, so nothing can be written below it" in refused(capsys, ["demo"])


# What was computed is told in any case


def test_scores_are_printed_whatever_becomes_of_the_file(tmp_path: Path, capsys, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "could not write scores.json (No space left on device)")

    monkeypatch.setattr(Evaluate, "_scores", lambda command: [Score(metric="fid", value=12.5, images=8, protocol={})])
    monkeypatch.setattr("robustok.runtime.checkpoint.write_json", full)
    assert main(["evaluate", "--out", str(tmp_path / "scores.json")]) == 2
    told = capsys.readouterr()
    assert "12.5" in told.out
    assert told.err == "robustok evaluate: could not write scores.json (No space left on device)\n"


@dataclass
class Numbers:
    """An analysis of one number."""

    a: int


def test_a_quiet_analysis_is_printed_where_it_cannot_be_kept(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("robustok.analysis.page.text", lambda analysis: "the tables")
    place = Path("nowhere")
    command = Analyze(tokenizer=place, generator=place, images="fashion-mnist", out=tmp_path, quiet=True)
    command._finish(Numbers(1), page=lambda: "page")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "analysis.html").read_text() == "page"
    command._finish(Numbers(2), page=None)
    assert [path.name for path in tmp_path.iterdir()] == ["analysis.json"], "the page was of another analysis"
    monkeypatch.setattr(
        "robustok.runtime.checkpoint.write_json", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(OSError, match="full"):
        command._finish(Numbers(1), page=None)
    assert capsys.readouterr().out == "the tables\n"


# What is there already


def test_records_never_replace_what_they_were_computed_from(tmp_path: Path, capsys):
    np.savez(tmp_path / "ours.npz", np.zeros((4, 8, 8, 3), np.uint8))
    words = ["evaluate", "--generated", str(tmp_path / "ours.npz"), "--reference", str(tmp_path / "ours.npz")]
    assert "holds no records of scores" in refused(capsys, [*words, "--out", str(tmp_path / "ours.npz"), *QUICK])
    (tmp_path / "a.json").write_text(json.dumps([Score(metric="fid", value=1.0, images=8, protocol={}).to_plain()]))
    words = ["compare", str(tmp_path / "a.json"), "--format", "csv", "--out", str(tmp_path / "a.json")]
    assert "is one of the files that are compared" in refused(capsys, words)


WITHIN = [
    ["train-tokenizer", "smoke"],
    ["train-tokenizer", "smoke", "--images", "fashion-mnist", "--validation"],
    ["train-generator", "smoke", "--tokenizer", "t"],
    ["train-generator", "smoke", "--tokenizer", "t", "--images", "fashion-mnist", "--reference"],
    ["post-train", "--tokenizer", "t", "--generator", "g"],
    ["encode", "--tokenizer", "t"],
    ["reference"],
    ["demo"],
]


@pytest.mark.parametrize("argv", WITHIN, ids=lambda argv: argv[0])
def test_what_trains_or_counts_images_writes_nothing_among_them(argv, tmp_path: Path, capsys):
    """Before anything is read; what lies beside the folder is another matter, which its name may begin."""
    photos = tmp_path / "photos"
    photos.mkdir()
    name = argv[-1] if argv[-1] in ("--validation", "--reference") else "--images"
    words = [*argv, *([] if name == argv[-1] else [name]), str(photos), "--out"]
    for out in ("photos/run.safetensors", "photos/a/../b/run.safetensors"):
        told = refused(capsys, [*words, str(tmp_path / out)])
        assert f"run.safetensors lies in {name} {photos}, so what is written would be taken for images" in told
    assert not list(photos.iterdir())
    assert "lies in" not in refused(capsys, [*words, str(tmp_path / "photos-run.safetensors")])


def test_a_picture_of_nearest_images_is_none_of_them(tmp_path: Path, capsys):
    words = ["evaluate", "--generated", "a", "--reference", "b", "--train", str(tmp_path), "--nearest"]
    assert f"lies in --train {tmp_path}" in refused(capsys, [*words, str(tmp_path / "nearest.png")])


@pytest.mark.parametrize("name", ["images", "tokenizer"])
def test_a_run_never_writes_into_what_it_reads(name, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(images, "device_of", None)
    argv = ["train-tokenizer", "smoke", "--images", "fashion-mnist", "--out", str(tmp_path)]
    argv += ["--tokenizer", str(tmp_path)] if name == "tokenizer" else []
    argv[3] = str(tmp_path / ".") if name == "images" else argv[3]
    told = refused(capsys, argv)
    assert ("lies in --images" if name == "images" else "--out and --tokenizer are the same folder") in told


def test_images_holds_what_this_run_drew(models, tmp_path: Path, capsys):
    out = tmp_path / "out"
    sample = ["sample", *models, "--png", "--out", str(out), *QUICK, "--count"]
    assert main([*sample, "6"]) == 0
    assert "images holds 6 files that this run would not replace, such as 000005.png" in refused(capsys, [*sample, "3"])
    assert "images holds 6 files" in refused(capsys, [word for word in [*sample, "9"] if word != "--png"])
    (out / "images" / "000006.png.partial").write_bytes(b"as of a run that was killed while it wrote")
    (out / "images" / "000006.png.partial.claim").touch()
    assert main([*sample, "7", "--seed", "1"]) == 0
    with np.load(out / "samples.npz") as arrays:
        drawn = arrays["arr_0"]
    files = sorted((out / "images").iterdir())
    assert len(files) == len(drawn) == 7
    for file, image in zip(files, drawn, strict=True):
        with Image.open(file) as picture:
            assert (np.asarray(picture) == image).all()


@pytest.mark.parametrize("png", [False, True])
def test_what_sample_wrote_is_scored_by_its_images_and_not_by_its_grid(png, models, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(["sample", *models, *["--png"] * png, "--out", str(out), *QUICK, "--count", "4"]) == 0
    np.savez(tmp_path / "real.npz", np.zeros((4, SIDE, SIDE, 3), np.uint8))
    told = refused(capsys, ["evaluate", "--generated", str(out), "--reference", str(tmp_path / "real.npz"), *QUICK])
    images = f" or {out / 'images'}" * png
    assert told.endswith(f"out is what sample wrote, a grid among it; give its images, {out / 'samples.npz'}{images}\n")


def test_pictures_of_the_user_are_never_replaced(models, tmp_path: Path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000.png").write_bytes(b"my picture")
    words = ["sample", *models, "--out", str(tmp_path), *QUICK, "--count", "2"]
    assert "images holds 1 file that this run would not replace" in refused(capsys, [*words, "--png"])
    assert main(words) == 0, "without --png nothing goes there"
    assert (tmp_path / "images" / "000000.png").read_bytes() == b"my picture"


def test_a_tokenizer_that_cannot_decode_what_is_drawn_is_refused(models, tmp_path: Path, capsys):
    place = Path(models[1]).parent
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    autoencoder = AutoencoderConfig(image_size=SIDE, encoder=part, decoder=part, bottleneck=Plain(width=4))
    Autoencoder(autoencoder).save_pretrained(tmp_path / "continuous")
    config = TokenizerConfig(image_size=SIDE, encoder=part, decoder=part, quantizer=VQ(codebook_size=8, width=4))
    Tokenizer(config).save_pretrained(tmp_path / "smaller")
    for name, words in (
        ("continuous", "makes 4 tokens of 16 codes, the tokenizer makes latents of shape (4, 4)"),
        ("smaller", "of 16 codes"),
    ):
        both = ["--generator", str(place / "generator"), "--tokenizer", str(tmp_path / name)]
        assert words in refused(capsys, ["sample", *both, "--out", str(tmp_path / "out"), *QUICK])
        assert words in refused(capsys, ["evaluate", *both, "--reference", str(tmp_path), *QUICK])


# Seeds


@pytest.mark.parametrize("seed", ["0", "-1", str(2**64), str(-(2**70))])
def test_a_seed_is_any_whole_number(seed, models, tmp_path: Path, monkeypatch):
    seen = []
    monkeypatch.setattr("robustok.demo.run.run_demo", lambda config, *a, **k: seen.append(config.seed))
    monkeypatch.setattr("robustok.demo.ablation.run_ablation", lambda *a, seeds, **k: seen.append(*seeds))
    monkeypatch.setattr(
        "robustok.training.tokenizer_training.train_tokenizer", lambda config, *a, **k: seen.append(config.loop.seed)
    )
    assert main(["demo", "--seed", seed]) == 0
    assert main(["demo", "--ablate", "--seeds", seed]) == 0
    assert main(["demo", "--main.loop.seed", seed]) == 0
    train = ["train-tokenizer", "smoke", "--images", "fashion-mnist", "--out", str(tmp_path)]
    assert main([*train, "--seed", seed]) == 0
    assert main([*train, "--loop.seed", seed]) == 0
    assert seen == [int(seed)] * 5


def test_one_seed_is_said_once(capsys):
    argv = ["demo", "--seed", "1", "--main.loop.seed", "2"]
    assert "--seed and --main.loop.seed both say" in refused(capsys, argv)
