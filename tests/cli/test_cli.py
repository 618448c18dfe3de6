"""What is typed reaches the work; what is wrong is said in one line; four verbs work on a folder of images."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustok import presets
from robustok.cli import images, main, options, settings
from robustok.cli.arguments import numbers
from robustok.cli.evaluate import Evaluate
from robustok.cli.verbs import VERBS
from robustok.data import FashionMNIST
from robustok.evaluation.scores.score import Score
from robustok.runtime.configs import to_plain
from robustok.tokenizer.encoder import Conv, ViT

NAMES = [options.name_of(verb) for verb in VERBS]
TRAIN = ["train-tokenizer", "demo", "--images", "fashion-mnist", "--out", "nowhere"]


class Seen:
    """Stands in for work: remembers what it was called with."""

    def __init__(self, result=None):
        self.result = result

    def __call__(self, *arguments, **named):
        self.arguments, self.named = arguments, named
        return self.result


@pytest.fixture
def run_demo(monkeypatch):
    seen = Seen()
    monkeypatch.setattr("robustok.demo.run.run_demo", seen)
    return seen


@pytest.fixture
def run_ablation(monkeypatch):
    seen = Seen()
    monkeypatch.setattr("robustok.demo.ablation.run_ablation", seen)
    return seen


@pytest.fixture
def train(monkeypatch):
    seen = Seen()
    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", seen)
    return seen


def refused(capsys, argv, code=2):
    """What a command that fails says: one line on stderr, nothing else."""
    assert main(argv) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    assert told.err.startswith("robustok ")
    return told.err.strip()


# Settings


def test_settings_reach_the_config(run_demo, tmp_path):
    typed = ["--post.optim.lr", "1e-4", "--main.tokenizer.encoder.channels=[16, 32]", "--post.held-out", "99"]
    assert main(["demo", "--out", str(tmp_path), "--seed", "5", "--no-control", "--quiet", *typed]) == 0
    config, out = run_demo.arguments
    plain = presets.demo().with_seed(5)
    assert (config.post.optim.lr, config.post.held_out, config.seed) == (1e-4, 99, 5)
    assert config.main.tokenizer.encoder == Conv(stem=2, channels=(16, 32), blocks=1, attention=False)
    assert config.main.tokenizer.decoder == plain.main.tokenizer.decoder
    assert config.generator == plain.generator
    assert out == tmp_path
    assert run_demo.named == {"control": False, "quiet": True}


def test_a_demo_as_it_is(run_demo):
    assert main(["demo"]) == 0
    assert run_demo.arguments[0] == presets.demo()
    assert run_demo.named == {"control": True, "quiet": False}
    assert main(["demo", "--preset", "smoke", "--out", "x"]) == 0
    assert run_demo.arguments[0] == presets.smoke()


def test_the_config_that_an_older_demo_left_is_read_without_what_it_says_of_its_time(run_demo, tmp_path):
    plain = to_plain(replace(presets.smoke(), scored=99)) | {"duration": "about 13 minutes"}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert main(["demo", "--preset", "smoke", "--config", str(tmp_path / "config.json")]) == 0
    assert run_demo.arguments[0] == replace(presets.smoke(), scored=99)


def test_the_ablation(run_ablation, run_demo, tmp_path, capsys):
    assert main(["demo", "--ablate", "--seeds", "3,5-6", "--out", str(tmp_path), "--quiet"]) == 0
    assert run_ablation.arguments == (presets.demo(), tmp_path)
    assert run_ablation.named == {"seeds": (3, 5, 6), "quiet": True}
    assert not hasattr(run_demo, "arguments")
    assert "add one of them, or give one --seed" in refused(capsys, ["demo", "--seeds", "1"])
    assert "leave out --seed and --no-control" in refused(capsys, ["demo", "--ablate", "--seed", "1"])


def test_the_demo_without_a_codebook_and_the_four_corners(run_demo, monkeypatch, tmp_path, capsys):
    assert main(["demo", "--latent", "continuous", "--post.sigma", "0.6", "--quiet"]) == 0
    assert run_demo.arguments[0].main == presets.continuous().main
    assert run_demo.arguments[0].post.sigma == 0.6
    assert run_demo.arguments[1] == Path("runs/continuous")
    assert main(["demo", "--latent", "continuous", "--preset", "smoke", "--settings"]) == 0
    assert "--main.perturbation.strength" in capsys.readouterr().out
    corners = Seen()
    monkeypatch.setattr("robustok.demo.ablation.run_factorial", corners)
    assert main(["demo", "--corners", "--preset", "short", "--seeds", "4", "--out", str(tmp_path), "--quiet"]) == 0
    assert corners.arguments == (
        {"discrete": presets.short(), "continuous": presets.continuous_short()},
        tmp_path,
    )
    assert corners.named == {"seeds": (4,), "quiet": True}
    assert "ask for one at a time" in refused(capsys, ["demo", "--corners", "--ablate"])
    assert "leave out --seed and --no-control" in refused(capsys, ["demo", "--corners", "--no-control"])
    assert "takes the presets as they are" in refused(capsys, ["demo", "--corners", "--post.sigma", "0.5"])


def test_the_demo_in_color(run_demo):
    assert main(["demo", "--images", "fluent", "--preset", "smoke"]) == 0
    assert run_demo.arguments == (presets.in_color(presets.smoke()), Path("runs/demo-fluent"))
    assert run_demo.arguments[0].main.tokenizer.image_size == 64
    assert main(["demo", "--images", "fluent", "--latent", "continuous", "--preset", "smoke", "--out", "x"]) == 0
    assert run_demo.arguments == (presets.in_color(presets.continuous_smoke()), Path("x"))


def test_files_come_in_layers_below_what_is_typed(tmp_path, run_demo):
    one, two = tmp_path / "one.json", tmp_path / "two.yaml"
    one.write_text(json.dumps({"post": {"optim": {"lr": 1.0, "warmup": 3}, "sigma": 0.9}}))
    two.write_text("post:\n  optim: {lr: 2e-3}\n  sigma: 0.8\n")
    assert main(["demo", "--config", str(one), "--config", str(two), "--post.sigma", "0.6"]) == 0
    config = run_demo.arguments[0]
    assert (config.post.optim.lr, config.post.optim.warmup, config.post.sigma) == (2e-3, 3, 0.6)


def test_a_config_that_a_run_wrote_is_a_file_of_settings(tmp_path, run_demo):
    written = settings.to_plain(presets.smoke().with_seed(4))
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert main(["demo", "--config", str(tmp_path / "config.json")]) == 0
    assert settings.to_plain(run_demo.arguments[0]) == written


@pytest.mark.parametrize(("name", "part"), [("demo", "main"), ("train-tokenizer", "")])
def test_the_run_json_of_a_stage_is_a_file_of_settings_where_its_part_is(name, part, tmp_path, run_demo, train):
    config = replace(presets.smoke().main, semantic=0.7)
    run = {"loop": {"steps": 1}, "stage": settings.to_plain(config), "images": {"name": "photos"}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    argv = TRAIN if name == "train-tokenizer" else ["demo"]
    assert main([*argv, "--config", str(tmp_path / "run.json")]) == 0
    assert attrgetter(part or "semantic")((run_demo if part else train).arguments[0]) == (config if part else 0.7)


def test_the_settings_of_another_stage_are_refused(tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"loop": {}, "stage": settings.to_plain(presets.smoke().generator)}))
    told = refused(capsys, [*TRAIN, "--config", str(file)])
    assert f"{file} holds settings of a GeneratorTraining, and here those of a TokenizerTraining are wanted" in told
    file.write_text(json.dumps({"kind": "tokenizer", "config": {}}))
    assert "is of a model and not of a run; give the run.json beside it" in refused(
        capsys, ["demo", "--config", str(file)]
    )
    file.write_bytes(bytes([0xFF, 0xFE, 0x00]))
    assert "run.json is no text" in refused(capsys, ["demo", "--config", str(file)])


def test_another_kind_of_part_starts_from_its_own_defaults():
    below = settings.to_plain(presets.demo().main)
    typed = (("tokenizer.encoder", "ViT"), ("tokenizer.encoder.depth", "3"), ("tokenizer.encoder.latents", "64"))
    config = settings.layered(presets.demo().main, (), typed)
    assert config.tokenizer.encoder == ViT(depth=3, latents=64)
    assert settings.merge(below, {"type": "TokenizerTraining"}) == below


def test_folders_are_in_color_unless_they_are_said_not_to_be(train, monkeypatch):
    monkeypatch.setattr(images, "images_of", lambda *arguments, **named: FashionMNIST("validation"))
    folder = ["train-tokenizer", "demo", "--images", "photos", "--out", "x", "--quiet"]
    channels = []
    for argv in (folder, [*folder, "--tokenizer.channels", "1"], [*TRAIN, "--quiet"]):
        assert main(argv) == 0
        channels.append(train.arguments[0].tokenizer.channels)
    assert channels == [3, 1, 1]


def test_numbers():
    assert numbers("0-3,7") == (0, 1, 2, 3, 7)
    assert numbers("5") == (5,)
    assert numbers("-2,-1-1") == (-2, -1, 0, 1)


# Errors


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dmeo"], "robustok dmeo: there is no verb 'dmeo'; did you mean demo?"),
        (["demo", "--outt", "x"], "no option or setting --outt; did you mean --out?"),
        (["demo", "--quite"], "--quite is a setting and needs a value, or did you mean --quiet?"),
        (["demo", "--setings"], "did you mean --settings?"),
        (["demo", "--post.optim.lrr", "1"], "post.optim.lrr is not a field of Optim; did you mean 'lr'?"),
        (
            ["demo", "--pots.optim.lr", "1"],
            "there is no option or setting --pots.optim.lr; did you mean --post.optim.lr?",
        ),
        (["demo", "--main.loop.steps", "ten"], "main.loop.steps is 'ten'; it should be of type int"),
        (["demo", "--main.loop.steps", "0"], "steps is 0; it must be at least 1"),
        (["demo", "--main.loop.steps.x", "0"], "main.loop.steps is {'x': 0}; it should be of type int"),
        (["demo", "--main.tokenizer.encoder", "Cnov"], "main.tokenizer.encoder is 'Cnov'; did you mean 'Conv'?"),
        (["demo", "--main.loop.steps", "[1,"], "--main.loop.steps cannot be read as JSON or YAML"),
        (["demo", "--main.loop.steps"], "--main.loop.steps is a setting and needs a value"),
        (["demo", "--preset", "big"], "argument --preset: invalid choice: 'big'"),
        (
            ["demo", "--seed", "x"],
            "argument --seed: 'x' is no seed; give a whole number; see robustok demo --help",
        ),
        (["demo", "--out", "--quiet"], "argument --out: expected one argument"),
        (["demo", "--config", "none.json"], "there is no file none.json; give a JSON or YAML file"),
        (["demo", "--ablate", "--seeds", "a"], "'a' are no numbers; write them like 0,3 or 0-9"),
        (["train-tokenizer", "demo", "--imges", "x", "--out", "y"], "setting --imges; did you mean --images?"),
        (["train-tokenizer", "demo", "--out", "y"], "the following arguments are required: --images"),
        ([*TRAIN, "--device", "abacus"], "there is no device 'abacus' here; choose cpu"),
        (["train-tokenizer", "demo", "--images", "no-folder", "--out", "y"], "no-folder is not a folder"),
        (
            ["sample", "--generator", "g", "--tokenizer", "t", "--out", "o"],
            "there is no t; give a file, a folder or owner",
        ),
        (["sample", "--count", "0", "--generator", "g", "--tokenizer", "t", "--out", "o"], "'0' is no count"),
        (["evaluate", "--tokenizer", "t"], "evaluate takes --tokenizer and --images; or --generator"),
        (["report", "--quiet"], "there is no option --quiet"),
        ([*TRAIN, "--images", "photos"], "--images is given twice, and only one can count; leave out the others"),
        ([*TRAIN, "--out=a", "--out", "b"], "--out is given 3 times"),
        (["demo", "--post.held-out", "3", "--post.held_out", "4"], "--post.held_out is given twice"),
        (["sample", "--labels", "0-999999999999"], "'0-999999999999' are no numbers"),
        (["demo", "--main.type", "[1]"], "main is [1]; choose from 'TokenizerTraining'"),
        (["demo", "--out=--"], "--out needs a value, and -- is none"),
        (["demo", "--seed", "1e3"], "'1e3' is no seed; give a whole number"),
        (["demo", "--seed", "9" * 2000], "9999...' is no seed"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(argv, words, capsys):
    assert words in refused(capsys, argv)


def test_an_error_from_below_is_one_line(monkeypatch, capsys, tmp_path):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device", "model.safetensors")

    def lost(*arguments, **named):
        raise RuntimeError("the loss was not finite\nin the last 10 steps")

    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", full)
    assert refused(capsys, TRAIN) == "robustok train-tokenizer: model.safetensors: No space left on device"
    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", lost)
    told = refused(capsys, TRAIN, code=1)
    assert told.endswith("the loss was not finite in the last 10 steps (ROBUSTOK_TRACEBACK=1 shows where)")
    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", lambda *a, **k: {}["size"])
    assert refused(capsys, TRAIN, code=1).endswith("KeyError: 'size' (ROBUSTOK_TRACEBACK=1 shows where)")
    monkeypatch.setenv("ROBUSTOK_TRACEBACK", "1")
    with pytest.raises(KeyError, match="size"):
        main(TRAIN)


def test_a_stopped_run_says_how_to_go_on(monkeypatch, capsys):
    def stopped(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", stopped)
    assert main(TRAIN) == 130
    assert capsys.readouterr().err == "\nrobustok train-tokenizer: stopped; the same command goes on\n"


def test_an_error_never_shows_the_number_or_a_none(monkeypatch, capsys):
    def fails(*arguments, **named):
        raise errors.pop()

    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", fails)
    errors = [OSError(28, "could not write x (no room)"), OSError("no room"), OSError(), OSError(None, "no room")]
    told = [refused(capsys, TRAIN).partition(": ")[2] for _ in range(4)]
    assert told == ["no room", "OSError", "no room", "could not write x (no room)"]


def test_warnings_are_one_line(monkeypatch, capsys):
    def warn(*arguments, **named):
        warnings.warn("one image\ncannot be read", stacklevel=1)

    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*TRAIN, "--quiet"]) == 0
    assert capsys.readouterr().err == "robustok: one image cannot be read\n"


def test_a_reader_who_has_had_enough_is_no_error():
    code = "import sys; from robustok.cli import main; sys.exit(main(['demo', '--settings']))"
    command = f'{sys.executable} -c "{code}" | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("Demo")


# Work


def test_evaluate_prints_a_table_or_records(monkeypatch, capsys, tmp_path):
    cell = Score(metric="pfid_cell", value=12.5, images=8, interval=(12.0, 13.0), protocol={"alpha": 0.9, "delta": 4})
    monkeypatch.setattr(Evaluate, "_scores", lambda command: [cell])
    assert main(["evaluate", "--quiet", "--out", str(tmp_path / "scores.json")]) == 0
    told = "pfid_cell, alpha 0.9, delta 4 12.5 8 images 95 %: 12 to 13"
    assert re.sub(" +", " ", capsys.readouterr().out).strip() == told
    assert main(["evaluate", "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out) == json.loads((tmp_path / "scores.json").read_text()) == [cell.to_plain()]
    )


def test_from_a_folder_of_images_to_scores(tmp_path, capsys):
    """Every stage for real, tiny: two classes, dark and bright."""
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(32):
            pixels = random.integers(low, low + 127, (1, 1, 3)).repeat(20, 0).repeat(18, 1).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    photos, quick = str(tmp_path / "photos"), ["--quiet", "--device", "cpu"]
    short = ["loop.steps", "4", "loop.batch_size", "16"]

    def typed(*words):
        return [f"--{word}" if i % 2 == 0 else word for i, word in enumerate(words)]

    def at(name):
        return str(tmp_path / name)

    plain = ["objective.perceptual", "0", "objective.adversarial", "0", "objective.frechet", "0"]
    small = ["tokenizer.image_size", "16", "tokenizer.quantizer.codebook_size", "64", "perturbation.delta", "4"]
    narrow = [word for part in ("encoder", "decoder") for word in (f"tokenizer.{part}.channels", "[8, 16]")]
    argv = ["train-tokenizer", "smoke", "--images", photos, "--out", at("tok"), *quick]
    assert main([*argv, *typed(*short, *plain, *small, *narrow)]) == 0

    argv = ["train-generator", "smoke", "--tokenizer", at("tok"), "--images", photos, "--out", at("gen"), *quick]
    assert main([*argv, *typed(*short, "generator.width", "32", "generator.heads", "1", "generator.depth", "1")]) == 0
    made = json.loads((tmp_path / "gen" / "config.json").read_text())["config"]
    assert (made["codebook_size"], made["tokens"], made["classes"]) == (64, 16, 2)

    both = ["--tokenizer", at("tok"), "--generator", at("gen")]
    argv = ["post-train", "--preset", "smoke", *both, "--images", photos, "--out", at("better"), "--control", *quick]
    assert main([*argv, *typed(*short, *plain, "validate_every", "2"), "--sigma", "0.5"]) == 0
    for folder, sigma in (("better", 0.5), ("better/control", 1.0)):
        assert json.loads((tmp_path / folder / "config.json").read_text())["post_training"]["sigma"] == sigma

    argv = ["sample", *both, "--labels", "1", "--count", "6", "--guidance", "1.5", "--png", "--out", at("out"), *quick]
    assert main(argv) == 0
    with np.load(tmp_path / "out" / "samples.npz") as arrays:
        assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (6, 16, 16, 3))
        assert arrays["arr_1"].tolist() == [1] * 6
        last = arrays["arr_0"][-1]
    with (
        Image.open(tmp_path / "out" / "images" / "000005.png") as one,
        Image.open(tmp_path / "out" / "grid.png") as grid,
    ):
        assert (np.asarray(one) == last).all()
        assert grid.size == (16, 6 * 16)

    assert main(["reference", "--images", photos, "--size", "16", "--out", at("real.safetensors"), *quick]) == 0
    capsys.readouterr()
    questions = {
        "rfid": ["--tokenizer", at("better"), "--images", photos, "--pfid-images", "4"],
        "gfid": [*both, "--reference", at("real.safetensors"), "--count", "20"],
        "fid": ["--generated", photos, "--size", "16", "--reference", at("real.safetensors")],
    }
    for metric, question in questions.items():
        assert main(["evaluate", "--json", *question, *quick]) == 0
        records = json.loads(capsys.readouterr().out)
        assert records[0]["metric"] == metric
    assert records[0]["value"] == pytest.approx(0, abs=1e-6)  # of images against themselves


@pytest.mark.parametrize(
    "text", ["[" * 30_000, "- " * 50_000, "a: &a [*a]", "{a: " * 60 + "1" + "}" * 60, "x: [" + "1, " * 20_000 + "]"]
)
def test_settings_that_are_none_end_in_a_line(text, tmp_path, capsys):
    """Some of them ended the process: the parser of YAML has no bound of its own."""
    (tmp_path / "x.yaml").write_text(text)
    assert main(["demo", "--settings", "--config", str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml cannot be read as JSON or YAML" in capsys.readouterr().err
