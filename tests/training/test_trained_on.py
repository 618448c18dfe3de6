"""A generator remembers whose tokens or latents it was trained on, and no other tokenizer is used with it."""

import json
from dataclasses import replace

import pytest
import torch
from robustok_continuous import Patches
from robustok_tiny import GENERATOR, LOOP, POST, cache, extract, generator, held_out, images, tokenizer

from robustok import api
from robustok.adapters.sit import SiT
from robustok.data.latents import encode_latents
from robustok.data.pairs import make_pairs
from robustok.data.tokens import TokenCache, encode_tokens
from robustok.evaluation.compare import score_decoders
from robustok.evaluation.evaluate import score_generator
from robustok.evaluation.reference import Reference
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.generators.trained_on import check_trained_on
from robustok.tokenizer.tokenizer import fingerprint
from robustok.training.generator_training import GeneratorTraining, train_generator
from robustok.training.post_training import post_train_decoder
from robustok.training.tuning import DecoderTuning, tune_decoder

SHORT = replace(LOOP, steps=2)
TOKENS = replace(GENERATOR, loop=SHORT)
FLOW = replace(TOKENS, generator=DiffusionTransformer(tokens=16, channels=12, classes=10, width=32, depth=1, heads=1))


def another(kind: str, one: str) -> str:
    return rf"trained on tokenizer {one}, not on {kind}; give that tokenizer, whose decoder may have been post-trained"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> DiffusionTransformerModel:
    folder = tmp_path_factory.mktemp("trained")
    return train_generator(FLOW, encode_latents(Patches(), images(), folder / "latents"), folder / "run", quiet=True)


def test_it_is_remembered_in_its_folder_and_by_those_saved_on_the_way(tmp_path):
    def keep(model: AutoregressiveModel, step: int) -> dict[str, float]:
        model.save_pretrained(tmp_path / "early")
        return {}

    made = train_generator(TOKENS, cache(tmp_path), tmp_path / "run", check=keep, check_every=1, quiet=True)
    own = tokenizer().fingerprint()
    early, late = (AutoregressiveModel.from_pretrained(tmp_path / name) for name in ("early", "run"))
    assert made.trained_on == early.trained_on == late.trained_on == own
    told = tmp_path / "run" / "config.json"
    saved = json.loads(told.read_text())
    assert saved["trained_on"] == own
    del saved["trained_on"]  # as version 0.1 wrote it
    told.write_text(json.dumps(saved))
    assert AutoregressiveModel.from_pretrained(tmp_path / "run").trained_on is None


def test_training_goes_on_with_the_same_tokenizer_only(trained, tmp_path):
    more = replace(FLOW, generator=None)
    same, other = (encode_latents(Patches(seed), images(), tmp_path / f"latents{seed}") for seed in (0, 1))
    assert train_generator(more, same, tmp_path / "same", generator=trained, quiet=True).trained_on == same.fingerprint
    with pytest.raises(ValueError, match=another(other.fingerprint, same.fingerprint)):
        train_generator(more, other, tmp_path / "other", generator=trained, quiet=True)


def test_another_tokenizer_is_refused_wherever_both_meet(trained, tmp_path):
    own, stranger, seen = Patches(), Patches(seed=1), images()
    message, sampling = another(stranger.fingerprint(), own.fingerprint()), FlowSampling(steps=2)
    reference, labels = Reference.of(seen, extract()), torch.arange(20) % 10
    assert api.sample(trained, own, [0, 1], steps=2).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match=message):
        api.sample(trained, stranger, [0, 1], steps=2)
    with pytest.raises(ValueError, match=message):
        score_generator(trained, stranger, reference, labels, extract(), sampling=sampling)
    with pytest.raises(ValueError, match=message):
        score_decoders(trained, {"one": stranger}, reference, labels, extract(), sampling=sampling)
    config = DecoderTuning(post=POST, sampling=sampling, held_out=8)
    with pytest.raises(ValueError, match=message):
        tune_decoder(config, stranger, trained, seen, tmp_path, features=extract(), quiet=True)
    trained.save_pretrained(tmp_path / "generator")
    assert api.load_generator(tmp_path / "generator", tokenizer=own).trained_on == own.fingerprint()
    with pytest.raises(ValueError, match=message):
        api.load_generator(tmp_path / "generator", tokenizer=stranger)


def test_a_decoder_is_no_other_tokenizer_but_statistics_of_latents_are(trained):
    tuned = Patches()
    tuned.decoder.weight.data += 1
    check_trained_on(trained, tuned)
    tuned.encoder.weight.data *= 2  # as dividing by another scale would
    with pytest.raises(ValueError, match="trained on tokenizer"):
        check_trained_on(trained, tuned)


def test_nothing_is_known_of_published_models_until_they_are_trained_further(tmp_path):
    config = DiffusionTransformer(
        tokens=16, channels=12, classes=10, width=32, depth=1, heads=1, mlp="gelu", norm="layer", rotary=False,
        qk_norm=False, variance=True,
    )  # fmt: skip
    published = SiT(config)
    check_trained_on(published, Patches())
    check_trained_on(published, Patches(seed=1))
    latents = encode_latents(Patches(), images(), tmp_path / "latents")
    further = GeneratorTraining(loop=SHORT)
    train_generator(further, latents, tmp_path / "run", generator=published, quiet=True)
    assert SiT.from_pretrained(tmp_path / "run").trained_on == Patches().fingerprint()


def test_tokens_of_another_tokenizer_are_refused_too(tmp_path):
    made = train_generator(TOKENS, cache(tmp_path), tmp_path / "run", quiet=True)
    other = tokenizer(seed=9)
    again = encode_tokens(other, images(), tmp_path / "other")
    message = another(other.fingerprint(), tokenizer().fingerprint())
    with pytest.raises(ValueError, match=message):
        train_generator(replace(TOKENS, generator=None), again, tmp_path / "more", generator=made, quiet=True)
    with pytest.raises(ValueError, match=message):
        score_generator(
            made, other, Reference.of(images(), extract()), torch.arange(20) % 10, extract(), sampling=Sampling()
        )


def test_what_knows_a_tokenizer_by_its_earlier_fingerprint_still_fits_it(tmp_path):
    source, seen = tokenizer(), images()
    (earlier,) = source.earlier_fingerprints()
    assert earlier == fingerprint(
        {name: w for name, w in source.state_dict().items() if not name.startswith("decoder.")}
        | {"codebook": source.codebook}  # as version 0.1 hashed it
    )
    kept = cache(tmp_path)
    manifest = tmp_path / "tokens" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(source.fingerprint(), earlier))
    kept = encode_tokens(source, seen, tmp_path / "tokens")
    assert kept.fingerprint == earlier
    model = generator()
    for known in (earlier, source.fingerprint()):
        model.trained_on = known
        check_trained_on(model, source)
        check_trained_on(model, kept)
    pairs = make_pairs(model, kept, tmp_path / "pairs", sigma=0.5, sampling=Sampling(), count=48, seed=0)
    assert pairs.fingerprint == earlier
    how = replace(POST, loop=replace(LOOP, steps=1))
    post_train_decoder(how, source, pairs, seen, tmp_path / "run", held_out=held_out(), quiet=True)
    other = tokenizer(seed=1)
    with pytest.raises(ValueError, match=f"trained on tokenizer {source.fingerprint()}, not on {other.fingerprint()}"):
        check_trained_on(model, other)
    with pytest.raises(ValueError, match=f"holds tokens of tokenizer {earlier}, not of {other.fingerprint()}"):
        TokenCache(tmp_path / "tokens", other)
