"""Frozen encoders: what they make, whose weights they are, and where these are kept."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from robustok.backbones import dino
from robustok.backbones.dino import DINOv2, VisionTransformer
from robustok.backbones.lite import Lite
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.fit import check_fit
from robustok.models import load_tokenizer
from robustok.runtime.checkpoint import load_model
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import KL, Plain
from robustok.tokenizer.encoder import ViT
from robustok.tokenizer.frozen_encoder import FrozenDINOv2, FrozenEncoder, FrozenLite0
from robustok.training.pretrained import fill_frozen_encoder

LITE = FrozenLite0(side=32, stages=3)  # 16 latents of 40 channels
DINO = FrozenDINOv2(network=DINOv2(weights="random", width=64, depth=2, patch=8, side=32))  # 16 of 64
BOTH = pytest.mark.parametrize("config", [LITE, DINO], ids=["lite0", "dinov2"])
DECODER = ViT(patch=8, latents=16, width=32, depth=1, heads=1)


def autoencoder(config: Any, *, filled: bool = True) -> Autoencoder:
    torch.manual_seed(0)
    part = AutoencoderConfig(image_size=32, encoder=config, bottleneck=Plain(width=config.width), decoder=DECODER)
    model = Autoencoder(part).eval()
    if filled:
        fill_frozen_encoder(model)
    return model


def images(b: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(b, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def unit(features: torch.Tensor) -> torch.Tensor:
    """Of mean 0 and variance 1 over the channels, which come last."""
    features = features - features.mean(dim=-1, keepdim=True)
    return features / (features.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def test_latents_are_the_map_of_a_stage_in_raster_order():
    latents = autoencoder(LITE).encode(images())
    wanted = Lite()(images()).stages[2]  # (b 40 4 4)
    assert latents.shape == (2, 16, 40)
    torch.testing.assert_close(latents, unit(wanted.flatten(2).mT), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents[:, 4 * 1 + 2], unit(wanted[:, :, 1, 2]), rtol=1e-4, atol=1e-4)


def test_latents_are_the_patches_of_the_last_block():
    network = VisionTransformer(DINO.network, dino.random_weights(DINO.network))
    wanted = network(images(), after=(2,)).sequences[0][:, 1:]
    torch.testing.assert_close(autoencoder(DINO).encode(images()), unit(wanted), rtol=1e-4, atol=1e-4)


def test_images_are_resized_for_the_network():
    encoder = FrozenEncoder(replace(LITE, side=64))
    grown = F.interpolate(images(), (64, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder(images()), encoder(grown))
    assert encoder(images()).shape == (2, 64, 40)


@BOTH
def test_nothing_trains_or_saves_it_but_the_folder(config: Any, tmp_path):
    model = autoencoder(config)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"decoder"}
    assert not [name for name in model.state_dict() if name.startswith("encoder")]
    model(images().requires_grad_()).square().mean().backward()
    twin = copy.deepcopy(model)
    weights, of_twin = model.encoder.weights(), twin.encoder.weights()
    assert weights.keys() == of_twin.keys()
    assert all(weights[name] is of_twin[name] for name in weights)  # shared,
    twin.encoder.take({name: 2 * weight for name, weight in weights.items()})
    assert all(weights[name] is weight for name, weight in model.encoder.weights().items())  # but not tied
    model.standardize(torch.zeros(config.width) + 0.5, torch.ones(config.width) * 2)
    model.save_pretrained(tmp_path)
    state, _ = load_model(tmp_path)
    assert {f"encoder.network.{name}" for name in weights} <= state.keys()
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(loaded.encode(images()), model.encode(images()))
    assert loaded.fingerprint() == model.fingerprint()


@BOTH
def test_other_weights_are_another_tokenizer(config: Any):
    model, other = autoencoder(config), autoencoder(config)
    assert model.fingerprint() == other.fingerprint()
    name, weight = next(iter(other.encoder.weights().items()))
    other.encoder.take(other.encoder.weights() | {name: weight + 1e-3})
    assert model.fingerprint() != other.fingerprint()
    shape = DiffusionTransformer(tokens=16, channels=config.width, classes=2, width=32, depth=1, heads=1)
    generator = DiffusionTransformerModel(shape)
    generator.trained_on = model.fingerprint()
    check_fit(generator, model)
    with pytest.raises(ValueError, match="the generator was trained on tokenizer"):
        check_fit(generator, other)


def test_a_folder_of_another_network_is_refused(tmp_path):
    autoencoder(DINO).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"depth": 2' in text
    (tmp_path / "config.json").write_text(text.replace('"depth": 2', '"depth": 1'))
    with pytest.raises(ValueError, match="the frozen encoder in .* is not that of its config: .* unexpected"):
        load_tokenizer(tmp_path)


def test_an_empty_one_and_hidden_patches_are_refused():
    with pytest.raises(ValueError, match="this frozen encoder has no weights yet; train-tokenizer reads them"):
        autoencoder(DINO, filled=False).encode(images())
    with pytest.raises(ValueError, match="patches cannot be hidden from a frozen encoder; set mask_ratio_max to 0"):
        autoencoder(LITE).posterior(images(), torch.zeros(2, 16, dtype=torch.bool))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FrozenLite0(stages=6), "stages is 6, but Lite0 has 5; choose 1 to 5"),
        (lambda: FrozenLite0(side=20), "side is 20; 3 stages take a multiple of 8"),
        (
            lambda: AutoencoderConfig(image_size=32, encoder=LITE, bottleneck=KL(width=40), decoder=DECODER),
            "its 40 channels as they are, but the bottleneck is KL.*; set it to a Plain of width 40",
        ),
        (
            lambda: AutoencoderConfig(image_size=32, encoder=LITE, bottleneck=Plain(width=8), decoder=DECODER),
            "set it to a Plain of width 40",
        ),
        (
            lambda: AutoencoderConfig(
                image_size=32, encoder=replace(LITE, side=64), bottleneck=Plain(width=40), decoder=DECODER
            ),
            "the encoder makes 64 tokens and the decoder reads 16",
        ),
    ],
)
def test_what_does_not_fit_says_so(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build()
