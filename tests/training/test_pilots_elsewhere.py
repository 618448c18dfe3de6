"""Pilots on a second device that mixes with the CPU as little as CUDA does."""

from typing import Any

import pytest
import torch
from tests.standin import OnStandin, needed, setup
from tests.training.continuous import Patches
from tests.training.tiny import extract, images, tokenizer

from robustok.training import pilot_distance
from robustok.training.calibration import Calibrated, calibrate
from robustok.training.rehearsal import Rehearsed, RehearsedLatents, latent_pilot_of, pilot_of, rehearse

pytestmark = needed


@pytest.fixture
def device() -> torch.device:
    return torch.device(setup())


def test_pilots_learn_and_draw_on_the_device(device):
    short: dict[str, Any] = {"steps": 2, "batch_size": 8, "width": 32, "depth": 1, "train_images": 16}
    of_tokens, of_latents = tokenizer().to(device), Patches().to(device)
    own = torch.arange(32).repeat(8).view(16, 16).to(device)
    pilot = pilot_of(Rehearsed(**short), of_tokens, images(), seed=0)
    drawn = rehearse(pilot, of_tokens, own, own % 2 == 0, torch.rand(16, 16).to(device))
    assert isinstance(drawn, OnStandin)
    assert isinstance(next(pilot.parameters()).data, OnStandin)
    departs, _ = calibrate(Calibrated(**short, measured=20), of_tokens, images(120), seed=0)
    assert 0 <= departs <= 1
    follows = latent_pilot_of(RehearsedLatents(**short), of_latents, images(), seed=0)
    latents = torch.randn(4, 16, 12).to(device)
    followed = follows.follow(latents, torch.full((4,), 0.5).to(device), torch.randn(4, 16, 12).to(device), 2)
    assert isinstance(followed, OnStandin)


def test_what_a_pilot_foretells_is_the_same_on_the_device(device, monkeypatch):
    monkeypatch.setattr(pilot_distance, "PILOT", RehearsedLatents(steps=2, batch_size=8, width=32, depth=1))
    shown = images(24)
    (on_cpu,) = pilot_distance.pilot_distance(Patches(), shown, images(), extract())
    (here,) = pilot_distance.pilot_distance(Patches().to(device), shown, images(), extract())
    assert here.value == pytest.approx(on_cpu.value, rel=1e-3)
