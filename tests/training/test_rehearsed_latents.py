"""Rehearsed perturbation of latents: what a pilot follows back, and a run whose second phase learns from it."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import AUTOENCODER, LOOP, images, stepped

from robustok.data.loading import training_batch
from robustok.generators.flow_matching import noised
from robustok.runtime.configs import from_plain, to_plain
from robustok.tokenizer.latent_perturbation import LatentDraw, LatentNoise
from robustok.training.micro_batch import MicroBatch
from robustok.training.rehearsal import LatentPilot, RehearsedLatents, latent_pilot_of, rehearse_latents
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

REHEARSED = RehearsedLatents(freeze_from=0.5, steps=3, batch_size=16, width=32, depth=1, sigma=0.25, back=2)
SHORT = replace(AUTOENCODER, perturbation=REHEARSED)
IMAGES = images(64)
SHAPE = (16, 8)


def fixed(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(map(ord, name))))


def untrained() -> LatentPilot:
    """A pilot whose head is zero, with channels of other means and spreads."""
    pilot = LatentPilot(REHEARSED, SHAPE).eval()
    pilot.mean.copy_(fixed("mean", SHAPE[1]))
    pilot.std.copy_(fixed("std", SHAPE[1]).exp())
    return pilot


def test_a_pilot_that_knows_the_noise_gives_the_latents_back(monkeypatch):
    """Along a straight path every number of Euler steps is exact (Liu et al. 2022)."""
    pilot, latents, noise = untrained(), fixed("latents", 5, *SHAPE), fixed("noise", 5, *SHAPE)
    data, level = (latents - pilot.mean) / pilot.std, torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0])
    monkeypatch.setattr(pilot.generator, "forward", lambda x, t, labels: noise - data)
    for steps in (1, 3):
        torch.testing.assert_close(pilot.follow(latents, level, noise, steps), latents, rtol=1e-4, atol=1e-4)


def test_a_pilot_is_asked_at_each_images_own_levels(monkeypatch):
    pilot, asked = untrained(), []
    monkeypatch.setattr(pilot.generator, "forward", lambda x, t, labels: asked.append((t, labels)) or 0 * x)
    level = torch.tensor([0.2, 0.8])
    pilot.follow(fixed("latents", 2, *SHAPE), level, fixed("noise", 2, *SHAPE), 4)
    assert torch.equal(torch.stack([t for t, _ in asked]), torch.tensor([[1.0], [0.75], [0.5], [0.25]]) * level)
    assert {label for _, labels in asked for label in labels.tolist()} == {pilot.generator.null_class}


def test_a_pilot_that_knows_nothing_leaves_the_noise_in():
    pilot, latents, noise = untrained(), fixed("latents", 3, *SHAPE), fixed("noise", 3, *SHAPE)
    level = torch.tensor([0.1, 0.5, 0.9])
    found = pilot.follow(latents, level, noise, 4)
    standard = noised((latents - pilot.mean) / pilot.std, noise, level)
    torch.testing.assert_close(found, standard * pilot.std + pilot.mean)


def test_images_that_are_not_chosen_stay():
    pilot, latents = untrained(), fixed("latents", 4, *SHAPE)
    chosen = torch.tensor([True, False, True, False])[:, None].expand(4, SHAPE[0])
    draw = LatentDraw(chosen, torch.full((4,), 0.5), fixed("noise", 4, *SHAPE))
    found = rehearse_latents(pilot, latents, draw, 2)
    assert torch.equal(found[[1, 3]], latents[[1, 3]])
    whole = pilot.follow(latents, draw.fraction, draw.how, 2)
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_a_pilot_learns_standardized_latents():
    tokenizer = TokenizerStage(SHORT).ema.module
    pilot = latent_pilot_of(REHEARSED, tokenizer, IMAGES, seed=0)
    with torch.no_grad():
        latents = tokenizer.encode(IMAGES.images(torch.arange(len(IMAGES))))
    torch.testing.assert_close(pilot.mean, latents.mean(dim=(0, 1)))
    torch.testing.assert_close(pilot.std, latents.flatten(0, 1).std(dim=0, correction=0))
    assert pilot.generator.head.weight.abs().sum() > 0  # where it begins it is zero


def test_the_pilot_is_trained_once_at_the_change_of_phase_and_resumed_with_the_run():
    before = stepped(SHORT, 3)
    assert before.latents.pilot is None
    assert before.latents.perturbation == LatentNoise(beta=1.0, strength=0.75, latent_space="frozen", freeze_from=0.5)
    straight = stepped(SHORT, 8, before, first=3)
    pilot = latent_pilot_of(REHEARSED, straight.ema.module, IMAGES, seed=LOOP.seed)  # the encoder did not change
    state = straight.latents.pilot.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pilot.state_dict().items())

    resumed = TokenizerStage(SHORT)  # and has not seen the images: the pilot is part of the state
    resumed.load_state_dict(stepped(SHORT, 6).state_dict())
    stepped(SHORT, 8, resumed, first=6)
    state = straight.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())


def test_the_decoder_is_given_what_the_pilot_made():
    stage = stepped(SHORT, 5)
    batch = training_batch(IMAGES, LOOP.batch_size, LOOP.seed, 5)
    drawn = stage.latents.draw(len(batch), 5)
    whole = MicroBatch(0, 0, (len(batch),), 0, len(batch))
    encoded = stage.latents.encode(batch, drawn, drawn, whole, 5)
    posterior = stage.model.posterior(batch, drawn["hidden"]).draw(drawn["posterior"])
    expected = stage.latents.pilot.follow(posterior.detach(), drawn["fraction"], drawn["how"], REHEARSED.back)
    torch.testing.assert_close(encoded.codes, expected, rtol=2e-2, atol=2e-2)  # where training is in bfloat16
    assert (encoded.codes - posterior).abs().max() > 0.1


def test_a_part_of_a_batch_is_rehearsed_as_the_whole():
    stage = stepped(SHORT, 5)
    batch = training_batch(IMAGES, LOOP.batch_size, LOOP.seed, 5)
    drawn = stage.latents.draw(len(batch), 5)
    whole = stage.latents.encode(batch, drawn, drawn, MicroBatch(0, 0, (16,), 0, 16), 5).codes
    part = {name: value[8:] for name, value in drawn.items()}
    half = stage.latents.encode(batch[8:], part, drawn, MicroBatch(8, 8, (8,), 0, 16), 5).codes
    torch.testing.assert_close(half, whole[8:], rtol=2e-2, atol=2e-2)


def test_the_choice_can_be_typed_by_its_name():
    config = replace(AUTOENCODER, perturbation=RehearsedLatents(sigma=0.9))
    assert from_plain(TokenizerTraining, to_plain(config)) == config
    assert not config.has_codebook


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sigma": 1.5}, "sigma is 1.5; it is a share"),
        ({"back": 0}, "back is 0"),
        ({"beta": -1.0}, "beta is -1.0; it is a share"),
        ({"freeze_from": 1.0}, "leaves the second phase without a step"),
        ({"width": 40}, "a multiple of 32"),
    ],
)
def test_rehearsals_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RehearsedLatents(**wrong)


def test_rehearsing_asks_for_images():
    with pytest.raises(ValueError, match="trains a pilot generator on some images; give them to set_reference first"):
        latent_pilot_of(REHEARSED, TokenizerStage(SHORT).model, None, seed=0)


def test_a_training_that_diverges_is_told():
    with pytest.raises(ValueError, match="NaN or infinity at lr 1e\\+30"):
        latent_pilot_of(replace(REHEARSED, lr=1e30), TokenizerStage(SHORT).model, IMAGES, seed=0)
