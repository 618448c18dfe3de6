"""Calibrated perturbation: what a pilot shows, and a run that asks one."""

from dataclasses import replace

import pytest
import torch
from robustok_tiny import LOOP, MAIN, images, tokenizer

from robustok.data.loading import training_batch
from robustok.evaluation.pfid import Cell
from robustok.runtime.configs import from_plain, to_plain
from robustok.shapes import Labels, Tokens
from robustok.tokenizer.perturbation import Perturbation, neighbours, perturb
from robustok.training.calibration import Calibrated, _pairs_of_a_class, calibrate, measure
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

PILOT = Calibrated(like="departures", freeze_from=0.5, steps=3, batch_size=16, width=32, depth=1, measured=20)
SHORT = replace(MAIN, perturbation=PILOT)
IMAGES = images(128)


class Replacing:
    """A pilot of known strength: it always predicts what a perturbation of some tokens has in the place."""

    no_label, device, codebook_size = 10, torch.device("cpu"), 32

    def __init__(self, predicted: Tokens):
        self.predicted, self.given = predicted, 0
        self.tokens_per_image, self.blocks = predicted.shape[1], (1,) * predicted.shape[1]

    def predictor(self, labels: Labels):
        rows = self.predicted[self.given : self.given + len(labels)]
        self.given += len(labels)
        place = -1

        def predict(latest: Tokens | None) -> torch.Tensor:
            nonlocal place
            place += 1
            return 1e4 * torch.nn.functional.one_hot(rows[:, place : place + 1], 32).float()

        return predict

    def fingerprint(self) -> str:
        return "replacing"


def test_departures_give_back_the_perturbation_that_the_pilot_makes():
    model = tokenizer()
    tokens = torch.randint(32, (400, 16), generator=torch.Generator().manual_seed(0))
    near = neighbours(model.codebook.detach(), 9)
    noisy = perturb(tokens, near, 0.25, 1.0, generator=torch.Generator().manual_seed(1))
    cell = measure("departures", Replacing(noisy), model, tokens, torch.zeros(400, dtype=torch.int64), seed=0)
    assert cell.alpha == pytest.approx(0.25)  # 4 of 16 tokens
    assert cell.delta == 9  # twice the median rank of 1 to 9, less one


def test_latents_give_back_a_strong_perturbation_rather_than_a_weak_one():
    """A pilot whose samples are perturbed tokens of other images: the nearest cell is about as strong."""
    model = tokenizer()
    with torch.no_grad():
        rows = IMAGES.images(torch.arange(128))
        tokens = model.quantize(model.encode(rows)).tokens
    labels = torch.zeros(128, dtype=torch.int64)
    one, _ = _pairs_of_a_class(labels)

    def found(alpha: float) -> Cell:
        near = neighbours(model.codebook.detach(), 31)
        noisy = perturb(tokens[one], near, alpha, 1.0, generator=torch.Generator().manual_seed(1))
        return measure("latents", Replacing(noisy), model, tokens, labels, seed=0)

    assert found(1.0).alpha >= 0.7
    assert found(1.0).alpha > found(0.1).alpha


def test_pairs_have_the_same_class_at_the_same_place_and_no_image_twice():
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 0, 2])
    one, other = _pairs_of_a_class(labels)
    assert torch.equal(labels[one], labels[other])
    assert len(set(one.tolist()) | set(other.tolist())) == 2 * len(one) == 6


def stepped(
    config: TokenizerTraining, steps: int, stage: TokenizerStage | None = None, first: int = 0
) -> TokenizerStage:
    if stage is None:
        stage = TokenizerStage(config)
        stage.observe(IMAGES)
    for step in range(first, steps):
        stage.step(training_batch(IMAGES, LOOP.batch_size, LOOP.seed, step), step)
    return stage


def test_a_calibrated_run_measures_once_at_the_change_of_phase_and_goes_on_with_it():
    before = stepped(SHORT, 3)
    assert before.perturbation == Perturbation(alpha=1.0, beta=1.0, delta=1, latent_space="frozen", freeze_from=0.5)
    straight = stepped(SHORT, 8, before, first=3)
    cell = calibrate(PILOT, straight.average.module, IMAGES, seed=LOOP.seed)  # encoder and codebook did not change
    assert straight.perturbation == replace(before_strength(), alpha=cell.alpha, delta=cell.delta)
    assert 0 < cell.alpha <= 1

    resumed = TokenizerStage(SHORT)  # and has not seen the images: the strength is part of the state
    resumed.load_state_dict(stepped(SHORT, 6).state_dict())
    stepped(SHORT, 8, resumed, first=6)
    state = straight.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())


def before_strength() -> Perturbation:
    return Perturbation(beta=PILOT.beta, latent_space="frozen", freeze_from=PILOT.freeze_from)


def test_a_pilot_learns_what_it_is_trained_on():
    """Longer training makes tokens that were not seen likelier, so fewer of them depart."""
    model = tokenizer()
    short, long = (
        calibrate(replace(PILOT, steps=steps, lr=3e-3, batch_size=64), model, IMAGES, seed=0) for steps in (1, 60)
    )
    assert long.alpha < short.alpha - 0.02


def test_the_choice_can_be_typed_by_its_name():
    config = replace(MAIN, perturbation=Calibrated())
    assert from_plain(TokenizerTraining, to_plain(config)) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 1.5}, "beta is a share from 0 to 1, not 1.5"),
        ({"freeze_from": 1.0}, "leaves one of the two phases without a step"),
        ({"steps": 0}, "the pilot's steps is 0; it must be at least 1"),
        ({"width": 48}, "width 48; give a positive lr and a multiple of 32"),
        ({"measured": 2}, "measured is 2; give at least 20 images"),
    ],
)
def test_pilots_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Calibrated(**wrong)


def test_calibrating_asks_for_images():
    with pytest.raises(ValueError, match="takes a pilot generator of some images; observe them first"):
        calibrate(PILOT, tokenizer(), None, seed=0)
    with pytest.raises(ValueError, match="cannot be calibrated on 64 images"):
        calibrate(PILOT, tokenizer(), images(64), seed=0)
