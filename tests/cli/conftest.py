import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.evaluated import QUICK, SIDE, cheap, smooth

from robustok.cli import main, scoring
from robustok.data import ImageFolder
from robustok.evaluation.scores.reference import Reference
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture
def no_network(monkeypatch):
    """Features that cost nothing in the place of lite0's."""
    monkeypatch.setattr(scoring, "extractor", cheap)
    monkeypatch.setattr("robustok.evaluation.features.registry.extractor", cheap)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two sets of images as folders and npz files, a reference, two tokenizers of the same tokens, a generator."""
    place = tmp_path_factory.mktemp("evaluate")
    for name, count, seed in (("ours", 20, 1), ("real", 30, 2)):
        (place / name).mkdir()
        for i, image in enumerate(smooth(count, seed)):
            Image.fromarray(image).save(place / name / f"{i:02d}.png")
        np.savez(place / f"{name}.npz", smooth(count, seed))
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    config = TokenizerConfig(image_size=SIDE, encoder=part, decoder=part, quantizer=VQ(codebook_size=16, width=4))
    tokenizer = Tokenizer(config)
    tokenizer.save_pretrained(place / "tokenizer")
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            parameter.mul_(1.1)
    tokenizer.save_pretrained(place / "better")
    Tokenizer(config).save_pretrained(place / "stranger")
    model = Autoregressive(codebook_size=16, tokens=tokenizer.tokens_per_image, classes=2, width=32, heads=1, depth=1)
    AutoregressiveModel(model).save_pretrained(place / "generator")
    Reference.of(ImageFolder(place / "real", SIDE), cheap("lite0")).save(place / "real.safetensors")
    return place


@pytest.fixture
def scores(place, capsys, monkeypatch):
    """The records that `robustok evaluate` prints."""
    monkeypatch.chdir(place)

    def records(*words):
        capsys.readouterr()
        assert main(["evaluate", "--json", *words, *QUICK]) == 0
        return json.loads(capsys.readouterr().out)

    return records
