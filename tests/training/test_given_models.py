"""All three stages on models that are given rather than built: other people's, and continuous ones."""

import json
from dataclasses import replace

import pytest
import torch
from tests.training.continuous import Patches
from tests.training.tiny import GENERATOR, MAIN, POST, cache, extract, generator, images, tokenizer

from robustok.data.latent_cache import encode_images
from robustok.data.pairs import make_pairs
from robustok.evaluation.scores.reference import Reference
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.flow_matching import TrainingTimes
from robustok.runtime.logging import MetricsLog
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.decoder_stage import train_decoder
from robustok.training.generator_training import GeneratorStage, train_generator
from robustok.training.held_out import HeldOut
from robustok.training.tokenizer_training import TokenizerStage, train_tokenizer

FLOW = replace(
    GENERATOR, generator=DiffusionTransformer(tokens=16, channels=12, classes=10, width=64, depth=1, heads=1, patch=2)
)


def flow() -> DiffusionTransformerModel:
    torch.manual_seed(0)
    return DiffusionTransformerModel(FLOW.generator).eval()


def test_a_given_tokenizer_is_trained_on_and_its_codes_stay_where_they_are(tmp_path):
    given = tokenizer()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    stage = TokenizerStage(replace(MAIN, tokenizer=None, optim=replace(MAIN.optim, lr=1e-12)), tokenizer=given)
    stage.step(images().images(torch.arange(16)), 0)
    for name, tensor in stage.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-9, msg=name)
    trained = train_tokenizer(replace(MAIN, tokenizer=None), images(), tmp_path, tokenizer=given, quiet=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    assert not torch.equal(trained.last_layer, given.last_layer)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "tokenizer"
    assert Tokenizer.from_pretrained(tmp_path).fingerprint() == trained.fingerprint()


def test_a_stage_takes_a_config_or_a_model_not_both_or_neither():
    for config, given in ((MAIN, tokenizer()), (replace(MAIN, tokenizer=None), None)):
        with pytest.raises(ValueError, match="takes a tokenizer or the config of a new one; give one of the two"):
            TokenizerStage(config, tokenizer=given)
    for config, given in ((GENERATOR, generator()), (replace(GENERATOR, generator=None), None)):
        with pytest.raises(ValueError, match="takes a generator or the config of a new one; give one of the two"):
            GeneratorStage(config, generator=given)
    with pytest.raises(ValueError, match="a Patches has no loss to train it by; it can be sampled and scored"):
        GeneratorStage(replace(GENERATOR, generator=None), generator=Patches())


def test_a_generator_of_latents_learns_and_is_read_back(tmp_path):
    latents = encode_images(Patches(), images(), tmp_path / "latents")
    config = replace(FLOW, loop=replace(FLOW.loop, steps=60, log_every=1), times=TrainingTimes(shift=2.0))
    model = train_generator(config, latents, tmp_path / "run", quiet=True)
    losses = [row["loss"] for row in MetricsLog(tmp_path / "run").rows()]
    power = float(latents.plain(torch.arange(64)).square().mean())
    assert losses[0] == pytest.approx(1 + power, rel=0.1)  # it knows nothing, and its head is zero: noise and data
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    assert DiffusionTransformerModel.from_pretrained(tmp_path / "run").fingerprint() == model.fingerprint()


def test_a_given_generator_goes_on_learning(tmp_path):
    given = generator()
    trained = train_generator(
        replace(GENERATOR, generator=None), cache(tmp_path), tmp_path / "run", generator=given, quiet=True
    )
    assert trained.fingerprint() != given.fingerprint() == generator().fingerprint()


def test_tokens_and_latents_are_not_mixed_up(tmp_path):
    latents = encode_images(Patches(), images(), tmp_path / "latents")
    with pytest.raises(ValueError, match=r"makes 16 tokens of 32 codes, the cache holds latents of shape \(16, 12\)"):
        train_generator(GENERATOR, latents, tmp_path / "run", quiet=True)
    narrow = replace(FLOW, generator=replace(FLOW.generator, channels=3))
    with pytest.raises(
        ValueError, match=r"makes latents of shape \(16, 3\), the cache holds latents of shape \(16, 12\)"
    ):
        train_generator(narrow, latents, tmp_path / "run", quiet=True)


def test_the_decoder_of_a_continuous_tokenizer_is_tuned_and_nothing_else(tmp_path):
    given, seen = Patches(), images()
    latents = encode_images(given, seen, tmp_path / "latents")
    sampling = FlowSampling(steps=4)
    pairs = make_pairs(flow(), latents, tmp_path / "pairs", sigma=0.8, sampling=sampling, count=48, seed=0)
    drawn = sample_latents(flow(), seen.labels, sampling, seed=1)
    held_out = HeldOut(given, drawn, Reference.of(seen, extract()).stats, extract())
    result = train_decoder(POST, given, pairs, seen, tmp_path / "run", held_out=held_out, quiet=True)
    assert result.step > 0  # a decoder with random weights is easily improved on
    assert result.after < result.before
    tuned = Patches.from_pretrained(tmp_path / "run")
    for name, before in given.state_dict().items():
        assert torch.equal(tuned.state_dict()[name], before) != name.startswith("decoder."), name
    assert tuned.fingerprint() == given.fingerprint()
