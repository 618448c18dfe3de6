"""Perturbation that spares the latent space: what encoder and codebook learn from perturbed images, and when."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.training.tiny import AUTOENCODER, LOOP, MAIN, TWO_PHASES, images, stepped, tokenizer

from robustok.data.images import FashionMNIST
from robustok.data.loading import training_batch
from robustok.runtime.checkpoint import load_resume
from robustok.runtime.configs import comments
from robustok.tokenizer.latent_perturbation import LatentDraw, LatentMixing, LatentNoise, perturb_latents
from robustok.tokenizer.perturbation import Draw, Perturbation, ReleasedPerturbation
from robustok.training.calibration import Calibrated
from robustok.training.rehearsal import Rehearsed, RehearsedLatents
from robustok.training.tokenizer_training import TokenizerStage, train_tokenizer

SHORT = replace(MAIN, perturbation=TWO_PHASES)


def weights(module: Any, decoder: bool) -> dict[str, torch.Tensor]:
    """Copies of the decoder's weights, or of all others."""
    state = module.state_dict()
    return {name: value.clone() for name, value in state.items() if name.startswith("decoder.") == decoder}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_in_the_second_phase_only_the_decoder_learns():
    stage = stepped(SHORT, 4)
    averaged = stage.ema.module
    others, decoder, fingerprint = weights(averaged, False), weights(averaged, True), averaged.fingerprint()
    head = {name: value.clone() for name, value in stage.latents.head.state_dict().items()}
    assert not equal(weights(stage.model, False), others)  # the average is not where training is
    stage = stepped(SHORT, 8, stage, first=4)
    for module in (stage.model, averaged):
        assert equal(weights(module, False), others)  # encoder, quantizer and codebook, as they were averaged
        assert not equal(weights(module, True), decoder)
    assert averaged.fingerprint() == fingerprint
    assert equal(head, stage.latents.head.state_dict())  # nothing is left for the semantic term to teach


def test_the_first_phase_is_clean_and_the_second_perturbed_at_full_strength():
    clean = stepped(replace(SHORT, perturbation=replace(TWO_PHASES, beta=0.0)), 4)
    stage = stepped(SHORT, 4)
    assert equal(stage.model.state_dict(), clean.model.state_dict())
    seen: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.model.quantizer.register_forward_hook(lambda _, __, quantized: tokens.append(quantized.tokens))
    for step in (4, 7):  # annealed, alpha would be 0.25 by now
        stepped(SHORT, step + 1, stage, first=step)
        changed = (seen[-1] - stage.model.lookup(tokens[-1])).abs().amax(dim=2) > 1e-4
        assert changed.sum(dim=1).tolist() == [8] * 16  # alpha 0.5 of 16 tokens in every image


def test_each_phase_has_a_course_of_the_learning_rate_of_its_own():
    stage, rates = stepped(SHORT, 0), []
    for step in range(8):
        batch = training_batch(images(), LOOP.batch_size, LOOP.seed, step)
        rates.append(float(stage.step(batch, step)["lr"]))
    assert rates[:4] == rates[4:]
    assert rates[3] == pytest.approx(0.0, abs=1e-9)


def test_codes_are_not_placed_anew_once_the_codebook_is_frozen():
    stage = stepped(SHORT, 5)
    stage.latents.steps_unused[:] = 1000
    codes = stage.model.codebook.clone()
    assert "dead_codes" not in stepped(SHORT, 6, stage, first=5).step(
        training_batch(images(), LOOP.batch_size, LOOP.seed, 6), 6
    )
    assert torch.equal(stage.model.codebook, codes)


@pytest.mark.parametrize("stopped_at", [3, 4, 6])
def test_a_run_that_goes_on_before_at_or_after_the_change_of_phase_ends_the_same(stopped_at):
    straight = stepped(SHORT, 8)
    state = stepped(SHORT, stopped_at).state_dict()
    resumed = TokenizerStage(SHORT)
    resumed.set_reference(images())
    resumed.load_state_dict(state)
    stepped(SHORT, 8, resumed, first=stopped_at)
    assert equal(straight.model.state_dict(), resumed.model.state_dict())
    assert equal(straight.ema.module.state_dict(), resumed.ema.module.state_dict())


def test_stopped_images_teach_the_decoder_only():
    """With every image perturbed and no other loss the encoder gets no gradient at all; joint, it does."""

    def moved(latent_space: str) -> tuple[bool, bool]:
        perturbation = Perturbation(alpha=0.5, beta=1.0, delta=4, latent_space=latent_space)  # type: ignore[arg-type]
        config = replace(MAIN, perturbation=perturbation, codebook=0.0, semantic=0.0)
        stage = stepped(config, 0)
        stage._start_codebook = lambda *_: None  # type: ignore[method-assign]
        before = {name: value.clone() for name, value in stage.model.state_dict().items()}
        stepped(config, 1, stage)
        after = stage.model.state_dict()
        return tuple(  # type: ignore[return-value]
            any(not torch.equal(before[name], after[name]) for name in before if name.startswith(part))
            for part in ("encoder.", "decoder.")
        )

    assert moved("stopped") == (False, True)
    assert moved("joint") == (True, True)


def test_stopped_leaves_the_gradients_of_clean_images_as_they_are():
    """Half of the images perturbed: the encoder learns what it would from the others, each at its share."""

    def gradient(latent_space: str, beta: float, weight_of_perturbed: float) -> torch.Tensor:
        perturbation = Perturbation(alpha=1.0, beta=beta, delta=4, latent_space=latent_space)  # type: ignore[arg-type]
        config = replace(MAIN, perturbation=perturbation, codebook=0.0, semantic=0.0)
        stage = stepped(config, 0)
        x = images().images(torch.arange(16))
        drawn = Draw(**stage.latents.draw(16, 0))
        z = stage.model.encode(x)
        quantized = stage.model.quantize(z)
        codes = stage.latents._perturbed(z, quantized, drawn, 0)
        error = (stage.model.decode(codes) - x).square().mean(dim=(1, 2, 3))
        perturbed = drawn.chosen.any(dim=1)
        torch.where(perturbed, weight_of_perturbed * error, error).mean().backward()
        return stage.model.encoder.get_parameter("stem.weight").grad

    torch.testing.assert_close(gradient("stopped", 0.5, 1.0), gradient("joint", 0.5, 0.0))


def test_without_perturbed_images_every_choice_trains_the_same():
    off = replace(MAIN, perturbation=Perturbation(beta=0.0))
    states = [
        stepped(replace(off, perturbation=replace(off.perturbation, **change)), 3).model.state_dict()
        for change in ({}, {"latent_space": "stopped"}, {"freeze_from": 0.1})
    ]
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


def test_a_whole_run_in_two_phases_keeps_its_decoder_average_and_its_state(tmp_path):
    tokenizer = train_tokenizer(SHORT, images(), tmp_path / "run", quiet=True)
    state = load_resume(tmp_path / "run" / "resume.safetensors")["stage"]
    assert state["decoder_only"] is True
    assert tokenizer.fingerprint() == stepped(SHORT, 4).ema.module.fingerprint()


def test_a_continuous_tokenizer_has_two_phases_too():
    noise = LatentNoise(beta=1.0, strength=0.8, latent_space="frozen", freeze_from=0.5)
    config = replace(AUTOENCODER, perturbation=noise)
    clean = stepped(replace(config, perturbation=replace(noise, beta=0.0)), 4)
    stage = stepped(config, 4)
    averaged = stage.ema.module
    assert equal(stage.model.state_dict(), clean.model.state_dict())  # nothing is perturbed yet
    others, decoder = weights(averaged, False), weights(averaged, True)
    resumed = TokenizerStage(config)
    resumed.set_reference(images())
    resumed.load_state_dict(stage.state_dict())
    stepped(config, 6, stage, first=4)
    for module in (stage.model, averaged):
        assert equal(weights(module, False), others)
        assert not equal(weights(module, True), decoder)
    drawn = stage.latents.draw(16, 7)
    assert drawn["chosen"].all()  # annealed, it would be half of the tokens
    again = TokenizerStage(config)
    again.set_reference(images())
    again.load_state_dict(stepped(config, 6, resumed, first=4).state_dict())
    assert equal(
        stepped(config, 8, again, first=6).model.state_dict(), stepped(config, 8, stage, first=6).model.state_dict()
    )


def test_disturbed_latents_pass_no_gradient_where_it_is_stopped():
    latents = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    chosen = torch.tensor([[True, False, False], [False] * 3, [True] * 3, [False] * 3])
    draw = LatentDraw(chosen, torch.full((4,), 0.5), torch.randn(4, 3, 2))

    def gradient(latent_space: Any) -> torch.Tensor:
        disturbed = perturb_latents(LatentNoise(latent_space=latent_space), latents, draw)
        return torch.autograd.grad(disturbed.sum(), latents)[0]

    assert gradient("stopped").amax(dim=(1, 2)).tolist() == [0, 1, 0, 1]
    assert gradient("joint")[:, 0, 0].tolist() == [0.5, 1, 0.5, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent_space": "free"}, "latent_space is 'free'; choose from 'joint', 'stopped', 'frozen'"),
        ({"latent_space": "frozen", "freeze_from": -0.1}, "leaves the second phase without a step"),
        ({"latent_space": "frozen", "freeze_from": 1.0}, "leaves the second phase without a step"),
        ({"freeze_from": 1.5}, "freeze_from is 1.5, which leaves the second phase without a step"),
    ],
)
def test_choices_that_cannot_be_are_refused(wrong, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Perturbation(**wrong)


def test_the_choices_are_explained_where_settings_are_listed():
    for kind in (Perturbation, LatentNoise, LatentMixing, Calibrated):
        assert len(comments(kind)["freeze_from"]) > 20
    assert "frozen" in comments(Perturbation)["latent_space"]


def test_what_of_a_given_decoder_was_not_to_learn_does_not_in_the_second_phase_either():
    given = tokenizer()
    held = given.decoder.get_parameter("embed.weight").requires_grad_(False)
    stage = TokenizerStage(replace(SHORT, tokenizer=None), tokenizer=given)
    stage.set_reference(images())
    stepped(SHORT, 6, stage)
    assert torch.equal(stage.model.decoder.get_parameter("embed.weight"), held)
    assert not stage.model.encoder.get_parameter("out.weight").requires_grad
    assert stage.model.decoder.get_parameter("out.bias").requires_grad


TINY_PILOT: dict[str, Any] = {"freeze_from": 0.0, "steps": 2, "batch_size": 8, "width": 32, "depth": 1}


@pytest.mark.parametrize(
    "perturbation",
    [
        replace(TWO_PHASES, freeze_from=0.0),
        Rehearsed(**TINY_PILOT),
        LatentNoise(beta=1.0, latent_space="frozen", freeze_from=0.0),
        RehearsedLatents(**TINY_PILOT),
    ],
)
def test_a_finished_tokenizers_decoder_learns_alone_from_the_first_step(perturbation, tmp_path):
    """The latent space stays what it is to the last bit, on other images, too, so that its generators go on fitting."""
    config = MAIN if isinstance(perturbation, Perturbation | Rehearsed) else AUTOENCODER
    given = stepped(config, 2).averaged().requires_grad_(True)
    fingerprint, others, decoder = given.fingerprint(), weights(given, False), weights(given, True)
    config = replace(config, tokenizer=None, perturbation=perturbation, mask_ratio_max=0.0)
    fresh = FashionMNIST("train").subset(torch.arange(1_000, 1_064))
    trained = train_tokenizer(config, fresh, tmp_path, tokenizer=given, quiet=True)
    assert trained.fingerprint() == fingerprint
    assert equal(weights(trained, False), others)
    assert not equal(weights(trained, True), decoder)
    stage = TokenizerStage(config, tokenizer=given)
    stage.set_reference(fresh)
    stepped(config, 1, stage)
    assert stage.phases.perturbing
    assert stage.latents.draw(16, 0)["chosen"].any(dim=1).all()


def test_a_new_tokenizer_needs_a_first_phase():
    with pytest.raises(
        ValueError, match="freeze_from is 0, so only the decoder would learn, of a tokenizer that is new"
    ):
        replace(MAIN, perturbation=Rehearsed(**TINY_PILOT))


@pytest.mark.parametrize(
    "perturbation",
    [replace(TWO_PHASES, freeze_from=0.75), Rehearsed(), Calibrated(), LatentNoise(latent_space="frozen")],
)
def test_so_few_steps_that_a_phase_has_none_are_refused(perturbation):
    """With one phase all would be perturbed from the first step on, and a pilot would never be trained."""
    config = AUTOENCODER if isinstance(perturbation, LatentNoise) else MAIN
    with pytest.raises(
        ValueError, match="freeze_from is 0.75, which leaves one of the two phases .* there are 3 in all"
    ):
        replace(config, perturbation=perturbation, loop=replace(LOOP, steps=3))
    replace(config, perturbation=perturbation, loop=replace(LOOP, steps=4))


@pytest.mark.parametrize(
    ("perturbation", "most"),
    [(replace(TWO_PHASES, delta=32), 31), (Perturbation(delta=32), 31), (ReleasedPerturbation(delta=33), 32)],
)
def test_more_neighbors_than_codes_are_refused_before_the_first_step(perturbation, most):
    """A second phase would ask for them once three quarters of the time have gone."""
    with pytest.raises(
        ValueError, match=f"of 32 codes a replacement is drawn from {most} at most; take a smaller delta"
    ):
        TokenizerStage(replace(MAIN, perturbation=perturbation))
    TokenizerStage(replace(MAIN, perturbation=replace(perturbation, beta=0.0)))
