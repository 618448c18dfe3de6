"""Models of other families by what is typed: fields, a generator beside its tokenizer, export, all three stages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.adapters.test_every_family import made

import robustok
from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.titok_generators import TiTokBERT
from robustok.adapters.var import VAR
from robustok.cli import main
from robustok.cli.models import fields_of
from robustok.data.shards import MANIFEST
from robustok.generators.llama import Llama
from robustok.generators.masked import Masked
from robustok.runtime.configs import to_plain
from robustok.training.choosing_sigma import SIGMAS

SHORT = ["--loop.steps", "2", "--loop.batch_size", "4", "--quiet"]
SMALL = ["--preset", "demo", "--loop.steps", "2", "--loop.batch_size", "4", "--validate_every", "1", "--quiet"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A LlamaGen tokenizer and generator in their authors' layout."""
    folder = tmp_path_factory.mktemp("models")
    made("llamagen-vq").to_checkpoint(folder / "vq.pt")
    torch.manual_seed(0)
    gpt = LlamaGenGPT(Llama(codebook_size=24, tokens=64, classes=10, width=64, depth=1, heads=1, hidden=64))
    gpt.to_checkpoint(folder / "gpt.pt")
    gpt.save_pretrained(folder / "gpt")
    return folder


def test_fields_are_json_or_words():
    assert fields_of(["image_size=384", "scales=[1,2]", "name=x y"]) == {
        "image_size": 384,
        "scales": (1, 2),
        "name": "x y",
    }
    with pytest.raises(ValueError, match="'384' is no field; write it like image_size=384"):
        fields_of(["384"])


def test_a_generator_learns_from_its_tokenizer_what_its_file_does_not_tell(files, tmp_path):
    tokenizer = robustok.load_tokenizer(files / "vq.pt", image_size=32)
    assert robustok.load_generator(files / "gpt.pt", heads=1).tokens_per_image == 256
    assert robustok.load_generator(files / "gpt.pt", tokenizer=tokenizer, heads=1).tokens_per_image == 64
    var_vq = made("var-vq")
    VAR.beside(var_vq, width=64, depth=1, classes=10).to_checkpoint(tmp_path / "var.pth")
    assert robustok.load_generator(tmp_path / "var.pth", tokenizer=var_vq, heads=1).tokens_per_image == 85
    with pytest.raises(ValueError, match="pass tokenizer="):
        robustok.load_generator(tmp_path / "var.pth", heads=1)


def test_the_commands_of_a_user_with_finished_models(files, tmp_path, capsys):
    """Sample, tune, export, and train both further."""
    models = ["--tokenizer", str(files / "vq.pt"), "--fields", "image_size=32"]
    both = [*models, "--generator", str(files / "gpt")]
    assert main(["sample", *both, "--count", "3", "--out", str(tmp_path / "samples"), "--guidance", "1.5"]) == 0
    assert (tmp_path / "samples" / "grid.png").is_file()
    few = tmp_path / "few"
    pictures(few, 24)
    tuning = ["--pairs", "6", "--held_out", "4", "--images", str(few)]
    assert main(["post-train", *both, *tuning, "--upscale", "--out", str(tmp_path / "tuned"), *SMALL]) == 0
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["post_training"]["sigma"] in SIGMAS
    export = ["export", "--tokenizer", str(tmp_path / "tuned"), "--out", str(tmp_path / "better.pt")]
    assert main(export) == 0
    theirs = torch.load(tmp_path / "better.pt", weights_only=True)["model"]
    assert theirs.keys() == torch.load(files / "vq.pt", weights_only=True)["model"].keys()
    capsys.readouterr()
    assert main(export) == 2
    assert "is already there, and is not overwritten" in capsys.readouterr().err
    train = ["train-tokenizer", "smoke", *models, "--images", str(few), "--upscale", "--out", str(tmp_path / "further")]
    assert main([*train, *SHORT, "--perturbation.beta", "1", "--perturbation.delta", "3"]) == 0
    assert main(["export", "--tokenizer", str(tmp_path / "further"), "--out", str(tmp_path / "further.pt")]) == 0
    capsys.readouterr()
    assert main(["sample", *both, "--fields", "colour=blue", "--out", str(tmp_path / "no")]) == 2
    assert "takes no image_size or colour" in capsys.readouterr().err


def test_the_commands_of_a_user_with_titok_s_files(tmp_path, capsys):
    """In the authors' layout: a folder of the repository's name, by which sampling as published is known."""
    folder, tokenizer, few = tmp_path / "generator_titok_l32_imagenet", tmp_path / "titok", tmp_path / "few"
    made("titok legacy").save_pretrained(tokenizer)
    torch.manual_seed(0)
    sizes = {"codebook_size": 24, "tokens": 5, "classes": 10, "width": 32, "depth": 1, "heads": 2}
    folder.mkdir()
    TiTokBERT(Masked(**sizes)).to_checkpoint(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": {"generator": {"num_attention_heads": 2}}}))
    both = ["--tokenizer", str(tokenizer), "--generator", str(folder)]
    pictures(few, 24)
    assert main(["sample", *both, "--count", "3", "--out", str(tmp_path / "samples"), "--steps", "3"]) == 0
    tuning = ["--pairs", "6", "--held_out", "4", "--images", str(few), "--upscale", "--sampling.guidance", "2"]
    assert main(["post-train", *both, *tuning, "--out", str(tmp_path / "tuned"), *SMALL]) == 0
    pairs = json.loads((tmp_path / "tuned" / "pairs" / MANIFEST).read_text())
    published = TiTokBERT.presets["titok-l-32"].sampling
    assert pairs["sigma"] in SIGMAS
    assert pairs["sampling"] == to_plain(replace(published, guidance=2.0))
    capsys.readouterr()
    how = ["--count", "8", "--reference", str(few), "--size", "32", "--mask_schedule", "cosine", "--json"]
    assert main(["evaluate", *both, "--features", "lite0", *how]) == 0
    protocol = json.loads(capsys.readouterr().out)[0]["protocol"]
    assert "cosine" in str(protocol)
    assert "9.5" in str(protocol)  # the temperature of the published noise
    assert main(["sample", *both, "--method", "heun", "--out", str(tmp_path / "no")]) == 2
    assert "a TiTokBERT is sampled as MaskedSampling says" in capsys.readouterr().err


def pictures(folder: Path, count: int) -> None:
    """A folder of small pictures in two classes."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        place = folder / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
