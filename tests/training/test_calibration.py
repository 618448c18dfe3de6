"""Calibrated perturbation: what a pilot shows, and a run that asks one."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import LOOP, MAIN, generator, images, tokenizer

from robustok.analysis.departures import departures
from robustok.data.loading import training_batch
from robustok.runtime.configs import from_plain, to_plain
from robustok.tokenizer.perturbation import Perturbation, neighbors, perturb
from robustok.training.calibration import Calibrated, calibrate, departing, pilot_tokens
from robustok.training.rehearsal import Rehearsed
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

PILOT = Calibrated(freeze_from=0.5, steps=3, batch_size=16, width=32, depth=1, measured=20)
SHORT = replace(MAIN, perturbation=PILOT)
IMAGES = images(128)


def test_departures_give_back_the_perturbation_that_they_come_from():
    codebook = torch.randn(32, 8, generator=torch.Generator().manual_seed(2))
    tokens = torch.randint(32, (400, 16), generator=torch.Generator().manual_seed(0))
    noisy = perturb(tokens, neighbors(codebook, 9), 0.25, 1.0, generator=torch.Generator().manual_seed(1))
    alpha, delta = departing(noisy, tokens, codebook)
    assert alpha == pytest.approx(0.25)  # 4 of 16 tokens
    assert delta == 9
    assert departing(tokens, tokens, codebook) == (0.0, 1)


def test_departures_in_several_codebooks_are_ranked_in_each():
    books = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))  # two of 32 codes, among each other
    tokens = torch.randint(64, (400, 16), generator=torch.Generator().manual_seed(0))
    near = neighbors(books, 9, books=2)
    noisy = perturb(tokens, near, 0.25, 1.0, generator=torch.Generator().manual_seed(1))
    assert departing(noisy, tokens, books, books=2) == (pytest.approx(0.25), 9)
    assert departing(noisy, tokens, books)[1] > 12  # codes of the other one lie between
    astray = torch.where(tokens < 32, tokens + 32, tokens)  # in the wrong codebook: as far as can be
    assert departing(astray, tokens, books, books=2)[1] == 31


def test_departures_are_those_that_an_analysis_of_the_generator_finds():
    codebook = tokenizer().codebook.detach()
    drawn, real = torch.randint(32, (2, 100, 16), generator=torch.Generator().manual_seed(0))
    found = departures(drawn, real, codebook)
    assert departing(drawn, real, codebook) == (pytest.approx(found.alpha), found.delta)


def test_a_pilot_that_is_certain_draws_what_it_is_certain_of():
    model = generator()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(1e4 * torch.nn.functional.one_hot(torch.tensor(7), 32))
    real, labels = torch.randint(32, (5, 16)), torch.zeros(5, dtype=torch.int64)
    assert (pilot_tokens(model, real, labels, seed=0) == 7).all()
    with torch.no_grad():
        model.head.bias.zero_()
    uniform = pilot_tokens(model, real.repeat(400, 1), labels.repeat(400), seed=0)
    counts = torch.bincount(uniform.flatten(), minlength=32)
    assert counts.min() > 850  # of 1,000, with a standard deviation of 31
    assert torch.equal(uniform[:5], pilot_tokens(model, real, labels, seed=0))


def stepped(
    config: TokenizerTraining, steps: int, stage: TokenizerStage | None = None, first: int = 0
) -> TokenizerStage:
    if stage is None:
        stage = TokenizerStage(config)
        stage.set_reference(IMAGES)
    for step in range(first, steps):
        LOGGED.append(stage.step(training_batch(IMAGES, LOOP.batch_size, LOOP.seed, step), step))
    return stage


LOGGED: list[dict[str, torch.Tensor]] = []  # by the steps so far


def test_a_calibrated_run_measures_once_at_the_change_of_phase_and_goes_on_with_it():
    before = stepped(SHORT, 3)
    unmeasured = Perturbation(alpha=1.0, beta=1.0, delta=1, latent_space="frozen", freeze_from=0.5)
    assert before.latents.perturbation == unmeasured
    straight = stepped(SHORT, 8, before, first=3)
    alpha, delta = calibrate(PILOT, straight.ema.module, IMAGES, seed=LOOP.seed)  # the codes did not change
    assert straight.latents.perturbation == replace(before_strength(), alpha=alpha, delta=delta)
    assert 0 < alpha <= 1
    assert "perturbation_alpha" not in LOGGED[-6]
    assert float(LOGGED[-1]["perturbation_alpha"]) == pytest.approx(alpha)
    assert int(LOGGED[-1]["perturbation_delta"]) == delta

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
    assert long[0] < short[0] - 0.02


def test_the_choice_can_be_typed_by_its_name():
    config = replace(MAIN, perturbation=Calibrated())
    assert from_plain(TokenizerTraining, to_plain(config)) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 1.5}, "beta is 1.5; it is a share"),
        ({"freeze_from": 1.0}, "leaves the second phase without a step"),
        ({"steps": 0}, "the pilot's steps is 0; it must be at least 1"),
        ({"width": 48}, "width 48; give a positive lr and a multiple of 32"),
        ({"measured": 2}, "measured is 2; give at least 20 images"),
    ],
)
def test_pilots_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Calibrated(**wrong)


def test_calibrating_asks_for_images():
    with pytest.raises(ValueError, match="takes a pilot generator of some images; give them to set_reference first"):
        calibrate(PILOT, tokenizer(), None, seed=0)
    with pytest.raises(ValueError, match="cannot be calibrated on 64 images"):
        calibrate(PILOT, tokenizer(), images(64), seed=0)


def test_images_that_are_too_few_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match="cannot be calibrated on 64 images and 32 codes; give at least 100"):
        TokenizerStage(SHORT).set_reference(images(64))


def test_a_pilot_whose_training_diverges_says_so():
    for pilot in (replace(PILOT, lr=1e30), Rehearsed(freeze_from=0.5, steps=3, width=32, depth=1, lr=1e30)):
        stage = TokenizerStage(replace(MAIN, perturbation=pilot))
        stage.set_reference(IMAGES)
        with pytest.raises(
            ValueError, match="pilot's training ended in NaN or infinity at lr 1e.30; lower the perturb"
        ):
            stage.latents.freeze(stage.ema.module, IMAGES)
