"""Rehearsed perturbation: what a pilot draws anew, and a run whose second phase learns from it."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import LOOP, MAIN, generator, images, stepped, tokenizer

from robustok.data.loading import training_batch
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.configs import from_plain, to_plain
from robustok.tokenizer.perturbation import Perturbation
from robustok.training.micro_batch import MicroBatch
from robustok.training.rehearsal import Rehearsed, pilot_of, rehearse
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

REHEARSED = Rehearsed(freeze_from=0.5, steps=3, batch_size=16, width=32, depth=1, sigma=0.25)
SHORT = replace(MAIN, perturbation=REHEARSED)
IMAGES = images(64)


def certain_of(code: int):
    """A generator that is certain of one code wherever it is asked."""
    model = generator()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(1e4 * torch.nn.functional.one_hot(torch.tensor(code), model.codebook_size))
    return model


def test_chosen_tokens_are_drawn_by_the_pilot_and_the_others_stay():
    tokens = torch.randint(6, (5, 16), generator=torch.Generator().manual_seed(0))
    chosen = torch.rand(5, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    found = rehearse(certain_of(7), tokenizer(), tokens, chosen, torch.rand(5, 16))
    assert torch.equal(found, torch.where(chosen, 7, tokens))


def test_an_image_drawn_anew_as_a_whole_is_a_sample_without_a_class():
    model, tokens = generator(), torch.zeros(300, 16, dtype=torch.int64)
    uniform = torch.rand(300, 16, generator=torch.Generator().manual_seed(0))
    found = rehearse(model, tokenizer(), tokens, torch.ones(300, 16, dtype=torch.bool), uniform)
    labels = torch.full((300,), model.null_class)
    other = sample_tokens(model, labels, Sampling(), seed=0, null_class=True)
    first, second = (torch.bincount(part.flatten(), minlength=32) / part.numel() for part in (found, other))
    assert (first - second).abs().sum() < 0.25  # of 4,800 draws each among 32 codes: 0.09 by chance


def test_a_code_of_another_codebook_does_not_take_a_tokens_place(monkeypatch):
    monkeypatch.setattr("robustok.training.rehearsal.books_of", lambda _: 2)  # codes below 16, and those from 16 on
    tokens = torch.tensor([[3] * 8 + [20] * 8])
    found = rehearse(certain_of(7), tokenizer(), tokens, torch.ones(1, 16, dtype=torch.bool), torch.rand(1, 16))
    assert found.tolist() == [[7] * 8 + [20] * 8]


def test_the_pilot_is_trained_once_at_the_change_of_phase_and_resumed_with_the_run():
    before = stepped(SHORT, 3)
    assert before.latents.pilot is None
    plain = Perturbation(alpha=0.75, beta=1.0, delta=1, latent_space="frozen", freeze_from=0.5)
    assert before.latents.perturbation == plain
    straight = stepped(SHORT, 8, before, first=3)
    pilot = pilot_of(REHEARSED, straight.ema.module, IMAGES, seed=LOOP.seed)  # the codes did not change
    assert straight.latents.pilot.fingerprint() == pilot.fingerprint()

    resumed = TokenizerStage(SHORT)  # and has not seen the images: the pilot is part of the state
    resumed.load_state_dict(stepped(SHORT, 6).state_dict())
    stepped(SHORT, 8, resumed, first=6)
    state = straight.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())


def test_the_decoder_is_given_what_the_pilot_drew():
    stage = stepped(SHORT, 5)
    batch = training_batch(IMAGES, LOOP.batch_size, LOOP.seed, 5)
    drawn = stage.latents.draw(len(batch), 5)
    assert drawn["chosen"].sum(dim=1).tolist() == [12] * len(batch)  # three quarters of 16 tokens
    stage.latents.pilot = certain_of(7)
    encoded = stage.latents.encode(batch, drawn, drawn, MicroBatch(0, 0, (len(batch),), 0, len(batch)), 5)
    seven = stage.model.lookup(torch.full((1, 16), 7))[0, 0]
    torch.testing.assert_close(encoded.codes[drawn["chosen"]], seven.expand(12 * len(batch), -1))
    kept = ~drawn["chosen"]
    torch.testing.assert_close(encoded.codes[kept], encoded.quantized.codes[kept])


def test_the_choice_can_be_typed_by_its_name():
    config = replace(MAIN, perturbation=Rehearsed(sigma=0.9))
    assert from_plain(TokenizerTraining, to_plain(config)) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sigma": 1.5}, "sigma is 1.5; it is a share"),
        ({"beta": -1.0}, "beta is -1.0; it is a share"),
        ({"freeze_from": 1.0}, "leaves the second phase without a step"),
        ({"train_images": 0}, "the pilot's train_images is 0; it must be at least 1"),
    ],
)
def test_rehearsals_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Rehearsed(**wrong)


def test_rehearsing_asks_for_images():
    with pytest.raises(ValueError, match="trains a pilot generator on some images; give them to set_reference first"):
        pilot_of(REHEARSED, tokenizer(), None, seed=0)
