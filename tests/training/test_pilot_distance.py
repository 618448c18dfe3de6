"""Pilot FD: rFID of what a pilot gives back, told apart from it by noise alone."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.training.continuous import Patches
from tests.training.tiny import tokenizer as with_codes

from robustok.data.images import FashionMNIST, Subset
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.training import pilot_distance as module
from robustok.training.pilot_distance import pilot_distance
from robustok.training.rehearsal import LatentPilot

TINY = replace(module.PILOT, steps=3, batch_size=8, width=32, depth=1)


@pytest.fixture(autouse=True)
def tiny_pilot(monkeypatch):
    monkeypatch.setattr(module, "PILOT", TINY)


def clothes(count: int, *, of: Literal["train", "validation"] = "validation") -> Subset:
    return FashionMNIST(of, 32).subset(torch.arange(count))


def mean_colors(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels.float(), 8).flatten(1)


SPACE = CustomExtractor(mean_colors, "coarse")


@pytest.fixture
def autoencoder():
    """Whose decoder gives back what the encoder saw."""
    model = Patches()
    back = torch.linalg.pinv(model.encoder.weight.detach())
    with torch.no_grad():
        model.decoder.weight.copy_(back)
        model.decoder.bias.copy_(-back @ model.encoder.bias)
    return model


def test_without_noise_it_is_rfid_of_the_same_images(autoencoder, monkeypatch):
    images, train = clothes(60), clothes(40, of="train")
    monkeypatch.setattr(module, "LEVEL", 0.0)
    (found,) = pilot_distance(autoencoder, images, train, SPACE)
    rfid = next(score for score in score_tokenizer(autoencoder, images, SPACE) if score.metric == "rfid")
    assert found.metric == "pilot_fd"
    assert found.value == pytest.approx(rfid.value, rel=1e-3)  # pixels are rounded to bytes
    assert found.interval == pytest.approx(rfid.interval, rel=1e-2)


def test_noise_that_a_pilot_leaves_counts_and_seeds_choose_it(autoencoder):
    images, train = clothes(60), clothes(40, of="train")
    (one,), (again,), (other,) = (pilot_distance(autoencoder, images, train, SPACE, seed=seed) for seed in (0, 0, 1))
    rfid = next(score for score in score_tokenizer(autoencoder, images, SPACE) if score.metric == "rfid")
    assert one.value == again.value
    assert one.value != pytest.approx(rfid.value, rel=1e-3)
    assert one.value != other.value
    assert (one.seeds, one.images) == ((0,), 60)
    assert one.protocol["level"] == 0.25
    assert one.protocol["pilot"]["type"] == "RehearsedLatents"
    assert one.protocol["pilot_learned"] == train.describe()


def test_a_pilot_that_gives_back_the_latents_leaves_rfid(autoencoder, monkeypatch):
    """What plain noise, and so pFID, cannot tell: noise that is taken away does no harm."""
    images, train = clothes(60), clothes(40, of="train")
    monkeypatch.setattr(LatentPilot, "follow", lambda self, latents, level, noise, steps: latents)
    (found,) = pilot_distance(autoencoder, images, train, SPACE)
    rfid = next(score for score in score_tokenizer(autoencoder, images, SPACE) if score.metric == "rfid")
    assert found.value == pytest.approx(rfid.value)


def test_several_spaces_have_a_distance_each(autoencoder):
    other = CustomExtractor(lambda pixels: 2 * mean_colors(pixels), "twice")
    one, two = pilot_distance(autoencoder, clothes(60), clothes(40, of="train"), [SPACE, other])
    assert [score.protocol["features"] for score in (one, two)] == ["coarse", "twice"]
    assert two.value == pytest.approx(4 * one.value, rel=1e-6)


def test_what_it_cannot_tell_is_refused(autoencoder):
    with pytest.raises(ValueError, match="this tokenizer makes codes"):
        pilot_distance(with_codes(), clothes(4), clothes(4, of="train"), SPACE)
    with pytest.raises(ValueError, match="the very images that it learned"):
        pilot_distance(autoencoder, clothes(4), clothes(4), SPACE)
    with pytest.raises(ValueError, match="1 image cannot be scored"):
        pilot_distance(autoencoder, clothes(1), clothes(4, of="train"), SPACE)
