"""What decides which decoder is kept, and what the demo's post-training asks of it, look at images whole."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.training.continuous import Patches
from tests.training.tiny import POST, generator, held_out, images, pairs, tokenizer
from torch import Tensor, nn

import robustok
from robustok import presets
from robustok.cli import images as cli_images
from robustok.cli import main
from robustok.cli import models as cli_models
from robustok.data.images import FashionMNIST
from robustok.evaluation.features.registry import deciding_space, extractor
from robustok.evaluation.metrics.fid import FeatureStats
from robustok.presets.defaults import looking_at
from robustok.shapes import to_pixels
from robustok.tokenizer.encoder import to_map, to_sequence
from robustok.training import post_training
from robustok.training.decoder_stage import train_decoder
from robustok.training.held_out import HeldOut
from robustok.training.post_training import PostTraining, post_train

SIDE = 256


class Through(Patches):
    """A tokenizer whose latents are the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Identity()

    @property
    def last_layer(self) -> Tensor:
        return self.encoder.weight

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(to_map(codes))


class Checkered(nn.Module):
    """Images with a checkerboard of amplitude 0.25 over them, a field a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(SIDE)
        return x + 0.25 * ((places[:, None] + places) % 2 * 2 - 1)


def smooth(seed: int) -> Tensor:
    coarse = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.5
    return nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")


def distances(space: str) -> tuple[float, float]:
    """Of the images as they are, and of the checkered ones, from others of the same kind."""
    extract = extractor(space)
    reference = FeatureStats.of(extract(to_pixels(smooth(1))))
    check = HeldOut(Through(), to_sequence(smooth(0)), reference, extract)
    return check(nn.Identity()), check(Checkered())


def test_an_error_on_every_pixel_of_256_moves_what_decides():
    plain, checkered = distances(deciding_space(SIDE))
    assert checkered > 3 * plain
    plain, checkered = distances("lite0")  # at 64 pixels it averages out
    assert checkered == pytest.approx(plain, rel=0.01)


def test_an_extractor_of_the_users_that_makes_other_features_than_the_reference_is_no_collapsed_decoder():
    extract = extractor(lambda pixels: pixels.float().mean(dim=(2, 3)))
    wider = FeatureStats.of(torch.rand(12, 4, generator=torch.Generator().manual_seed(0)))
    check = HeldOut(Through(), to_sequence(smooth(0)), wider, extract)
    with pytest.raises(ValueError, match="features of 4 and of 3 numbers cannot be compared"):
        check(nn.Identity())


@pytest.mark.parametrize(
    ("side", "space"),
    [(16, "lite0"), (64, "lite0"), (96, "lite0@96"), (224, "lite0@224"), (256, "lite0@224"), (512, "lite0@224")],
)
def test_the_space_looks_at_the_images_own_size_up_to_224(side, space):
    assert deciding_space(side) == space
    assert extractor(space).describe()["features"] == space
    looked = looking_at(side, presets.demo().post)
    assert looked.objective.perceptual_size == int(space.partition("@")[2] or 64)
    assert side > 64 or looked == presets.demo().post


class Asked(Exception):
    """For which space."""


@pytest.fixture
def asked(monkeypatch):
    def extractor(space: Any, device: Any) -> Any:
        raise Asked(space)

    monkeypatch.setattr(post_training, "extractor", extractor)


def test_the_space_is_chosen_by_argument_then_by_config_then_by_size(asked, monkeypatch, tmp_path):
    source = tokenizer()
    for size, config, argument, space in (
        (32, None, None, "lite0"),
        (256, None, None, "lite0@224"),
        (256, "inception", None, "inception"),
        (256, "inception", "lite0@96", "lite0@96"),
    ):
        source.image_size = size
        how = replace(POST, held_out=16, features=config)
        with pytest.raises(Asked, match=f"^{space}$"):
            post_train(how, source, generator(), images(), tmp_path, features=argument, quiet=True)
    monkeypatch.setattr("robustok.api.with_networks_at_hand", lambda config: config)  # which would fetch them
    with pytest.raises(Asked, match="^lite0@224$"):
        robustok.post_train(source, generator(), images(), tmp_path)


def test_the_command_line_chooses_the_space_and_looks_at_the_images_whole(monkeypatch, tmp_path):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    generator().save_pretrained(tmp_path / "generator")
    real, seen = cli_models.tokenizer_named, []

    def of_256(*arguments: Any) -> Any:
        model = real(*arguments)
        model.image_size = SIDE
        return model

    monkeypatch.setattr(cli_models, "tokenizer_named", of_256)
    monkeypatch.setattr(cli_images, "images_of", lambda *_, **__: FashionMNIST("train"))

    def tuned(config: PostTraining, *_: Any, features: Any, **__: Any) -> Any:
        seen.append((features or config.features, config.objective.perceptual_size))
        raise ValueError("enough")

    monkeypatch.setattr(post_training, "post_train", tuned)
    models = ["--tokenizer", str(tmp_path / "tokenizer"), "--generator", str(tmp_path / "generator")]
    typed = [
        "post-train",
        "--preset",
        "demo",
        *models,
        "--images",
        "fashion-mnist",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert main(typed) == main([*typed, "--features", "inception"]) == 2
    assert seen == [(None, 224), ("inception", 224)]


def test_a_run_is_not_continued_with_distances_of_another_space(tmp_path):
    touched, check = pairs(tmp_path), held_out()
    how = {"folder": tmp_path / "run", "held_out": check, "quiet": True}
    train_decoder(POST, tokenizer(), touched, images(), **how)
    check.extract = extractor("lite0@32")
    check.reference = FeatureStats.of(check.extract(to_pixels(images().images(torch.arange(64)))))
    with pytest.raises(ValueError, match="decided_in"):
        train_decoder(POST, tokenizer(), touched, images(), **how)
