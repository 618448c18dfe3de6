"""Post-training that nobody chose suits what it is given: no published model gets the toy's few steps."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.continuous import Patches
from tests.training.tiny import generator, tokenizer

from robustok import presets
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.masked import Masked
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.presets.decoders import post_off_the_shelf
from robustok.presets.defaults import looking_at, post_small, post_training_for
from robustok.training.generator_training import build_generator

EPOCHS = 10


def test_a_small_tokenizer_of_robustok_s_own_is_tuned_as_on_the_embedded_images():
    config = post_training_for(tokenizer(), generator(), 50_000)
    assert config == replace(post_small(), held_out=2_000)
    assert post_training_for(tokenizer(), generator(), 600).held_out == 60
    assert (config.loop.steps, config.sigma, config.sampling) == (2000, 0.7, Sampling(guidance=2.0))
    assert (config.validate_every, config.patience) == (250, 3)


@pytest.mark.parametrize("source", ["published", "large"])
def test_a_published_or_large_one_is_tuned_as_in_the_paper(source):
    made: Any = Patches() if source == "published" else tokenizer()
    made.image_size = 256
    config = post_training_for(made, generator(), 1_281_167)
    whole = post_off_the_shelf("one_gpu")
    assert config == replace(whole, sigma=0.9 if source == "published" else 0.7)
    assert config.loop.steps * config.loop.batch_size == pytest.approx(EPOCHS * 200_000, rel=0.01)
    assert config.optim.lr == 1.2e-4  # half of main training's 2.4e-4


def test_published_models_at_few_pixels_are_no_toys_either():
    small = Patches()
    assert post_training_for(small, generator(), 300_000).loop.batch_size == 1024


@pytest.mark.parametrize(("images", "batch"), [(50_000, 1024), (1_000, 900), (12, 10)])
def test_epochs_follow_the_images_there_are(images, batch):
    config = post_training_for(Patches(), generator(), images)
    assert config.pairs == images - max(2, images // 10)
    assert config.loop.batch_size == batch
    assert config.loop.steps == EPOCHS * (config.pairs // batch)
    assert 1 <= config.validate_every <= config.loop.steps


def test_epochs_follow_the_pairs_asked_for():
    config = post_training_for(
        Patches(), generator(), 1_281_167, over=lambda preset: replace(preset, pairs=20_480, sigma=0.95)
    )
    assert (config.pairs, config.loop.steps, config.sigma) == (20_480, EPOCHS * 20, 0.95)


def test_the_toy_is_there_for_whom_asks():
    other = Patches()
    other.image_size = 96
    config = post_training_for(other, generator(), 5_000, name="demo")
    toy = looking_at(96, presets.demo().post)
    assert config == replace(toy, sigma=0.9, held_out=500)
    assert post_training_for(tokenizer(), generator(), 5_000, name="post_robustok-smoke").loop.steps == 10


def test_generators_of_others_are_sampled_as_published():
    published = FlowSampling(steps=7)
    other = SimpleNamespace(sampling=published)
    assert post_training_for(Patches(), other, 50_000).sampling == published
    flow = DiffusionTransformerModel(
        DiffusionTransformer(tokens=16, channels=12, classes=10, width=64, depth=1, heads=1)
    )
    assert isinstance(post_training_for(Patches(), flow, 50_000).sampling, FlowSampling)


def test_a_masked_generator_is_sampled_as_such_whatever_the_preset():
    masked = build_generator(Masked(codebook_size=32, tokens=16, classes=10, width=64, depth=1, heads=1))
    assert post_training_for(tokenizer(), masked, 5_000).sampling == MaskedSampling()
    assert post_training_for(tokenizer(), masked, 5_000, name="masked").sampling == presets.masked().post.sampling
