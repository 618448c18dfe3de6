"""The study of other families' models: a tiny one runs to its end, by the library's defaults, and goes on."""

import json
from dataclasses import replace

import other_models
import pytest
import torch
import torch.nn.functional as F
from post_training_arms import CLEAN, ORIGINAL, Size
from post_training_bakeoff import Trained
from tests.training.tiny import GENERATOR, MAIN, POST

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import encode_images
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.generators.sampling import Sampling
from robustok.presets.defaults import post_training_for
from robustok.training.generator_training import train_generator
from robustok.training.tokenizer_training import train_tokenizer

TINY = Size(steps=4, pairs=32, held_out=50, scored=60, train=200, reference=60)


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 8).flatten(1)


def tiny(train, seed, out):
    tokenizer = train_tokenizer(MAIN, train, out / "tokenizer", quiet=True)
    cache = encode_images(tokenizer, train, out / "tokens")
    return Trained(tokenizer, train_generator(GENERATOR, cache, out / "generator", quiet=True), cache, POST)


def test_a_tiny_study_measures_every_arm_once_and_pages_it_by_model(tmp_path, monkeypatch):
    monkeypatch.setattr(other_models, "MODELS", {"llamagen": tiny})
    spaces = {"lite0": CustomExtractor(coarse, "lite0")}
    runs, results = tmp_path / "runs", tmp_path / "results"
    other_models.run_all(runs, results, TINY, 3, ["llamagen"], spaces)
    found = {
        arm: json.loads((results / f"llamagen_{arm.replace(' ', '_')}_3.json").read_text()) for arm in other_models.ARMS
    }
    assert {run["seed"] for run in found.values()} == {3}
    before = found[ORIGINAL]["scores"]["lite0"]
    assert before["change"] == 0
    assert {"gfid", "precision", "recall"} <= set(before)
    for arm in (CLEAN, other_models.TUNED):
        scores = found[arm]["scores"]["lite0"]
        assert scores["gfid"] - scores["change"] == pytest.approx(before["gfid"])
    assert found[CLEAN]["settings"]["sigma"] == 1.0
    monkeypatch.setattr(other_models, "MODELS", {"llamagen": lambda *_: pytest.fail("nothing is left to do")})
    other_models.run_all(runs, results, TINY, 3, ["llamagen"], spaces)
    page = other_models.post_training_page
    page.write(results, other_models.HEAD, tuple(other_models.MODELS), other_models.ARMS)
    written = (results / "README.md").read_text()
    assert written.startswith("# Decoders of other families")
    assert "## Llamagen" in written
    assert "| post-trained | 1 | " in written
    assert "### gFID against the control, seed by seed" in written


def test_the_librarys_post_training_is_what_is_measured(tmp_path):
    train = FashionMNIST("train", 32).subset(torch.arange(200))
    models = tiny(train, 0, tmp_path)
    sampling = Sampling(guidance=2.0)
    trained = other_models.finished(models.tokenizer, models.generator, models.cache, sampling, 20_000, 5)
    library = post_training_for(models.tokenizer, models.generator, 20_000, name="demo")
    assert trained.discriminator is None  # its user has none
    assert trained.post.witnesses == library.witnesses == ("vgg-hed",)
    assert (trained.post.objective, trained.post.optim) == (library.objective, library.optim)
    assert (trained.post.sigma, trained.post.loop.seed, trained.post.sampling) == ("auto", 5, sampling)
    sized = other_models.at_size(other_models.TUNED, trained.post, replace(TINY, steps=40))
    assert (sized.loop.steps, sized.validate_every, sized.pairs, sized.sigma) == (40, 20, 32, "auto")
    assert other_models.at_size(CLEAN, trained.post, TINY).sigma == 1.0
