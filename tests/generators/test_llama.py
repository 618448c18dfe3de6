"""Our Llama: saved and loaded as one of our own generators, and trained from its config like any other."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.tiny import GENERATOR, cache

import robustok
from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.protocol import lacking, makes
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.training.generator_training import train_generator

TINY = Llama(codebook_size=32, tokens=16, classes=10, width=64, depth=1, heads=1, hidden=64)


def test_trained_saved_and_loaded(tmp_path: Path):
    config = replace(GENERATOR, generator=TINY, loop=replace(GENERATOR.loop, steps=4, preview_every=0))
    trained = train_generator(config, cache(tmp_path), tmp_path / "run", quiet=True)
    loaded = robustok.load_generator(tmp_path / "run")
    assert isinstance(loaded, LlamaModel)
    assert (makes(loaded), lacking(loaded)) == ("tokens", [])
    assert loaded.config == TINY
    assert loaded.fingerprint() == trained.fingerprint()
    assert loaded.trained_on == cache(tmp_path).fingerprint
    labels = torch.arange(3)
    draw = sample_tokens(loaded, labels, Sampling(guidance=2.0), seed=0)
    assert torch.equal(draw, sample_tokens(trained, labels, Sampling(guidance=2.0), seed=0))


def test_the_adapter_is_the_same_network_under_its_authors_names():
    torch.manual_seed(0)
    ours = LlamaModel(TINY).eval()
    torch.nn.init.normal_(ours.head.weight)
    theirs = LlamaGenGPT(TINY).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens, labels = torch.randint(32, (2, 16)), torch.tensor([1, 10])
    assert torch.equal(ours(tokens, labels), theirs(tokens, labels))


def test_tokens_that_form_no_square_are_refused():
    with pytest.raises(ValueError, match="17 tokens do not form a square"):
        Llama(tokens=17)
