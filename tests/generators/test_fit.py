"""A generator remembers whose tokens or latents it was trained on, and no other tokenizer is used with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.continuous import Patches
from tests.training.tiny import GENERATOR, LOOP, POST, cache, extract, generator, held_out, images, tokenizer

from robustok import api
from robustok.adapters.diffusion_transformers import SiT
from robustok.data.images import Subset
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.data.pairs import make_pairs
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.reference import Reference
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.fit import ClassesWarning, check_classes, check_fit
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.checkpoint import fingerprint
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import Conv
from robustok.training.decoder_stage import train_decoder
from robustok.training.generator_training import GeneratorTraining, train_generator
from robustok.training.objective import Objective
from robustok.training.post_training import post_train

SHORT = replace(LOOP, steps=2)
TOKENS = replace(GENERATOR, loop=SHORT)
FLOW = replace(TOKENS, generator=DiffusionTransformer(tokens=16, channels=12, classes=10, width=32, depth=1, heads=1))


def another(kind: str, one: str) -> str:
    return rf"trained on tokenizer {one}, not on {kind}; give that tokenizer, whose decoder may have been post-trained"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> DiffusionTransformerModel:
    folder = tmp_path_factory.mktemp("trained")
    return train_generator(FLOW, encode_images(Patches(), images(), folder / "latents"), folder / "run", quiet=True)


def test_it_is_remembered_in_its_folder_and_by_those_saved_on_the_way(tmp_path):
    def keep(model: AutoregressiveModel, step: int) -> dict[str, float]:
        model.save_pretrained(tmp_path / "early")
        return {}

    made = train_generator(TOKENS, cache(tmp_path), tmp_path / "run", validate=keep, validate_every=1, quiet=True)
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
    same, other = (encode_images(Patches(seed), images(), tmp_path / f"latents{seed}") for seed in (0, 1))
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
        score_generator(trained, {"one": stranger}, reference, labels, extract(), sampling=sampling)
    config = replace(POST, sampling=sampling, held_out=8)
    with pytest.raises(ValueError, match=message):
        post_train(config, stranger, trained, seen, tmp_path, features=extract(), quiet=True)
    trained.save_pretrained(tmp_path / "generator")
    assert api.load_generator(tmp_path / "generator", tokenizer=own).trained_on == own.fingerprint()
    with pytest.raises(ValueError, match=message):
        api.load_generator(tmp_path / "generator", tokenizer=stranger)


def test_a_decoder_is_no_other_tokenizer_but_statistics_of_latents_are(trained):
    tuned = Patches()
    tuned.decoder.weight.data += 1
    check_fit(trained, tuned)
    tuned.encoder.weight.data *= 2  # as dividing by another scale would
    with pytest.raises(ValueError, match="trained on tokenizer"):
        check_fit(trained, tuned)


def test_nothing_is_known_of_published_models_until_they_are_trained_further(tmp_path):
    config = DiffusionTransformer(
        tokens=16, channels=12, classes=10, width=32, depth=1, heads=1, mlp="gelu", norm="layer", rotary=False,
        qk_norm=False, variance=True,
    )  # fmt: skip
    published = SiT(config)
    check_fit(published, Patches())
    check_fit(published, Patches(seed=1))
    latents = encode_images(Patches(), images(), tmp_path / "latents")
    further = GeneratorTraining(loop=SHORT)
    train_generator(further, latents, tmp_path / "run", generator=published, quiet=True)
    assert SiT.from_pretrained(tmp_path / "run").trained_on == Patches().fingerprint()


def test_tokens_of_another_tokenizer_are_refused_too(tmp_path):
    made = train_generator(TOKENS, cache(tmp_path), tmp_path / "run", quiet=True)
    other = tokenizer(seed=9)
    again = encode_images(other, images(), tmp_path / "other")
    message = another(other.fingerprint(), tokenizer().fingerprint())
    with pytest.raises(ValueError, match=message):
        train_generator(replace(TOKENS, generator=None), again, tmp_path / "more", generator=made, quiet=True)
    with pytest.raises(ValueError, match=message):
        score_generator(
            made, other, Reference.of(images(), extract()), torch.arange(20) % 10, extract(), sampling=Sampling()
        )


# Classes


def with_classes(*names: str, labels: tuple[int, ...] | None = None) -> Subset:
    """64 images whose classes have these names, in turn."""
    chosen = images()
    chosen.classes = names
    chosen.labels = torch.tensor(labels or range(len(names)))[torch.arange(64) % len(labels or names)]
    return chosen


@pytest.fixture(scope="module")
def of_pets(tmp_path_factory) -> DiffusionTransformerModel:
    """A generator of cats and dogs."""
    folder = tmp_path_factory.mktemp("pets")
    two = replace(FLOW, generator=replace(FLOW.generator, classes=2))
    cache = encode_images(Patches(), with_classes("cat", "dog"), folder / "latents")
    return train_generator(two, cache, folder / "run", quiet=True)


def tune(generator: Any, images: Subset, folder: Path) -> None:
    how = replace(
        POST,
        loop=SHORT,
        objective=Objective(perceptual=0.0, adversarial=0.0),
        sampling=FlowSampling(steps=2),
        pairs=16,
        held_out=16,
    )
    post_train(how, Patches(), generator, images, folder, quiet=True)


def test_a_generator_keeps_the_names_of_its_classes(of_pets, tmp_path):
    assert of_pets.class_names == ("cat", "dog")
    of_pets.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["class_names"] == ["cat", "dog"]
    assert DiffusionTransformerModel.from_pretrained(tmp_path / "saved").class_names == ("cat", "dog")
    llama = LlamaModel(Llama(codebook_size=8, tokens=4, classes=2, width=16, depth=1, heads=1))
    for model in (llama, AutoregressiveModel(TOKENS.generator)):
        model.save_pretrained(tmp_path / "unknown")
        assert "class_names" not in json.loads((tmp_path / "unknown" / "config.json").read_text())
        assert type(model).from_pretrained(tmp_path / "unknown").class_names is None
        model.class_names = ("cat",)
        model.save_pretrained(tmp_path / "known")
        assert type(model).from_pretrained(tmp_path / "known").class_names == ("cat",)


def test_images_of_more_classes_than_the_generator_knows_are_refused_before_any_work(of_pets, tmp_path):
    three = with_classes("cat", "dog", "eel")
    with pytest.raises(
        ValueError, match="the generator knows 2 classes, the images have 3; give images of its classes"
    ):
        tune(of_pets, three, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()
    cache = encode_images(Patches(), three, tmp_path / "latents")
    drawn = {"sigma": 0.5, "sampling": FlowSampling(steps=2), "count": 8, "seed": 0}
    with pytest.raises(ValueError, match="the generator knows 2 classes, the images have 3"):
        make_pairs(of_pets, cache, tmp_path / "pairs", **drawn)
    assert not (tmp_path / "pairs").exists()
    with pytest.raises(ValueError, match=r"images have no labels \(-1\), the generator needs them"):
        tune(of_pets, with_classes("cat", "dog", labels=(0, -1)), tmp_path / "tuned")


@pytest.mark.parametrize("names", [("dog", "eel"), ("Katze", "Hund"), ("images",)])
def test_classes_of_other_names_are_told(names, of_pets, tmp_path):
    others = with_classes(*names)
    with pytest.warns(ClassesWarning, match=rf"0 is 'cat' to the generator and '{names[0]}' in the images"):
        tune(of_pets, others, tmp_path / "tuned")
    with pytest.warns(ClassesWarning, match="classes of other names"):
        check_classes(of_pets, others.labels, names)


@pytest.mark.parametrize("names", [None, (), ("0", "1"), ("cat", "dog"), ("cat",), ("cat", "dog", "no image of it")])
def test_names_that_agree_or_tell_nothing_are_no_reason_to_warn(names, of_pets):
    check_classes(of_pets, torch.tensor([0, 1, 0]), names)
    check_classes(Still(), torch.tensor([0, 1, 0]), names)


class Still:
    """Of another author, who told no names."""

    null_class = 2


def test_a_cache_of_an_earlier_version_tells_no_names(tmp_path):
    """And it is gone on with: its manifest is as good without them."""
    made = encode_images(tokenizer(), images(), tmp_path)
    assert made.classes == images().classes
    manifest = tmp_path / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["classes"]
    manifest.write_text(json.dumps(told))
    assert encode_images(tokenizer(), images(), tmp_path).classes is None
    manifest.write_text(json.dumps(told | {"classes": ["other"] * 10}))
    with pytest.raises(ValueError, match=r"was made with classes \['other'"):
        encode_images(tokenizer(), images(), tmp_path)


def test_the_label_that_stands_for_none_is_no_class(of_pets):
    """Unless it is asked for on purpose."""
    labels, how = torch.tensor([0, 2]), FlowSampling(steps=2)
    words = "the generator knows 2 classes: labels go from 0 to 1; not 2"
    with pytest.raises(ValueError, match=words):
        sample_latents(of_pets, labels, how, seed=0)
    with pytest.raises(ValueError, match=words):
        sample_latents(of_pets, labels, how, seed=0, start=torch.zeros(2, 16, 12), level=0.5, one_pass=True)
    with pytest.raises(ValueError, match=words):
        api.sample(of_pets, Patches(), [0, 2])
    assert sample_latents(of_pets, labels, how, seed=0, null_class=True).shape == (2, 16, 12)
    with pytest.raises(ValueError, match="labels go from 0 to 1, and 2 is for no label; not 3"):
        sample_latents(of_pets, labels + 1, how, seed=0, null_class=True)
    model = AutoregressiveModel(TOKENS.generator).eval()
    with pytest.raises(ValueError, match="knows 10 classes: labels go from 0 to 9; not 10"):
        sample_tokens(model, torch.tensor([9, 10]), Sampling(), seed=0)
    assert sample_tokens(model, torch.tensor([9, 10]), Sampling(), seed=0, null_class=True).shape == (2, 16)


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
    kept = encode_images(source, seen, tmp_path / "tokens")
    assert kept.fingerprint == earlier
    model = generator()
    for known in (earlier, source.fingerprint()):
        model.trained_on = known
        check_fit(model, source)
        check_fit(model, kept)
    pairs = make_pairs(model, kept, tmp_path / "pairs", sigma=0.5, sampling=Sampling(), count=48, seed=0)
    assert pairs.fingerprint == earlier
    how = replace(POST, loop=replace(LOOP, steps=1))
    train_decoder(how, source, pairs, seen, tmp_path / "run", held_out=held_out(), quiet=True)
    other = tokenizer(seed=1)
    with pytest.raises(ValueError, match=f"trained on tokenizer {source.fingerprint()}, not on {other.fingerprint()}"):
        check_fit(model, other)
    with pytest.raises(ValueError, match=f"holds tokens of tokenizer {earlier}, not of {other.fingerprint()}"):
        LatentCache(tmp_path / "tokens", other)


def test_tokens_and_latents_of_another_shape_are_refused_where_nothing_else_is_known():
    made = AutoregressiveModel(Autoregressive(codebook_size=64, tokens=64, classes=10, width=32, depth=1, heads=1))
    own = tokenizer()
    fits = f"{own.tokens_per_image} tokens of {len(own.codebook)} codes"
    with pytest.raises(
        ValueError, match=f"makes 64 tokens of 64 codes, the tokenizer makes {fits}; give the tokenizer that"
    ):
        api.sample(made, own, [0, 1])
    flow = DiffusionTransformerModel(replace(FLOW.generator, channels=8))
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    other = Autoencoder(AutoencoderConfig(image_size=16, encoder=part, decoder=part, bottleneck=Plain(width=4)))
    with pytest.raises(
        ValueError, match=r"makes latents of shape \(16, 8\), the tokenizer makes latents of shape \(4, 4\)"
    ):
        api.sample(flow, other, [0, 1], steps=2)
