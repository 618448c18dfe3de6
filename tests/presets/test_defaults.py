"""Post-training that nobody chose suits what it is given: no published model gets the toy's few steps."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.continuous import Patches
from tests.training.tiny import generator, tokenizer

from robustok import presets
from robustok.backbones.lite import EfficientNetLite0
from robustok.backbones.vgg import LIN_LAYERS, VGG16
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.masked import Masked
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.losses.discriminator import FeatureDiscriminator
from robustok.presets.decoders import post_off_the_shelf
from robustok.presets.defaults import (
    EmbeddedNetworksWarning,
    looking_at,
    post_small,
    post_training_for,
    with_networks_at_hand,
)
from robustok.presets.scales import varied
from robustok.runtime.weights import WeightFile
from robustok.training.generator_training import build_generator
from robustok.training.pretrained import DINO_S16

EPOCHS = 10


def test_a_small_tokenizer_of_robustok_s_own_is_tuned_as_on_the_embedded_images():
    config = post_training_for(tokenizer(), generator(), 50_000)
    assert config == replace(post_small(), held_out=2_000)
    assert post_training_for(tokenizer(), generator(), 600).held_out == 60
    assert (config.loop.steps, config.sigma, config.sampling) == (2000, "auto", Sampling(guidance=2.0))
    assert (config.validate_every, config.patience) == (250, 3)


@pytest.mark.parametrize("source", ["published", "large"])
def test_a_published_or_large_one_is_tuned_as_in_the_paper(source):
    made: Any = Patches() if source == "published" else tokenizer()
    made.image_size = 256
    config = post_training_for(made, generator(), 1_281_167)
    assert config == post_off_the_shelf("one_gpu")
    assert (config.sigma, config.patience, config.witnesses) == ("auto", 3, ("vgg-hed",))
    assert config.objective.adversary.adaptive_max == presets.demo().post.objective.adversary.adaptive_max
    assert config.loop.steps // config.validate_every >= 10  # so that patience has something to look at
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
    assert config == replace(toy, sigma="auto", held_out=500)
    assert post_training_for(tokenizer(), generator(), 5_000, name="post_robustok-smoke").loop.steps == 10


def had(*files: WeightFile):
    """What `path` of a published file does where only these can be had."""

    def path(file: WeightFile) -> Path:
        if file not in files:
            raise ValueError(f"{file.title} could not be downloaded (no network); {file.remedy()}")
        return Path(file.names[0])

    return path


def test_embedded_networks_take_the_place_of_published_ones_that_cannot_be_had(monkeypatch):
    config = post_off_the_shelf("one_gpu")
    monkeypatch.setattr(WeightFile, "path", had(VGG16, LIN_LAYERS, DINO_S16))
    assert with_networks_at_hand(config) == config
    monkeypatch.setattr(WeightFile, "path", had(VGG16, LIN_LAYERS))
    with pytest.warns(EmbeddedNetworksWarning, match="discriminator judges by EfficientNet-Lite0.*DINO ViT-S/16 could"):
        found = with_networks_at_hand(config)
    judge = found.objective.adversary
    assert isinstance(judge.discriminator, FeatureDiscriminator)
    assert replace(judge, discriminator=config.objective.adversary.discriminator) == config.objective.adversary
    assert found.objective.network == config.objective.network
    monkeypatch.setattr(WeightFile, "path", had(VGG16, DINO_S16))
    with pytest.warns(EmbeddedNetworksWarning, match="perceptual term looks by EfficientNet-Lite0.*lin layers.*could"):
        found = with_networks_at_hand(config)
    assert (found.objective.network, found.objective.perceptual_stages) == (EfficientNetLite0(), 4)
    assert found.objective.adversary == config.objective.adversary


def test_networks_of_ones_own_and_of_terms_without_weight_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(WeightFile, "path", had())
    config = post_off_the_shelf("smoke")  # random weights
    assert with_networks_at_hand(config) == config
    off = varied(post_off_the_shelf("one_gpu"), objective={"perceptual": 0.0, "adversarial": 0.0})
    assert with_networks_at_hand(off) == off
    toy = presets.demo().post
    assert with_networks_at_hand(toy) == toy


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
