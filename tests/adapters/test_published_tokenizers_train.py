"""Published tokenizers in the stages: post-training moves their decoder alone, main training perturbs their tokens."""

from dataclasses import replace

import pytest
import torch
from tests.adapters.parity import weights_file
from tests.training.tiny import GENERATOR, MAIN, POST

from robustok.adapters.published_generators import default_sampling
from robustok.adapters.var import VAR
from robustok.cli.models import fitting
from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import encode_images
from robustok.data.pairs import make_pairs
from robustok.generators.generate import sample
from robustok.generators.masked import Masked, MaskedModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.models import load_generator, load_tokenizer
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import train_generator
from robustok.training.objective import Objective
from robustok.training.tokenizer_training import TokenizerStage

FIXTURES = {  # what their files do not tell, and whose tensors make the image
    "robustok_vit": (lambda config: {"heads": config["num_heads"]}, ("decoder.",)),
    "titok_legacy": (lambda config: {"heads": config["heads"]}, ("decoder.", "pixel_decoder.")),
    "titok_vq8k": (lambda config: {"heads": config["heads"]}, ("decoder.",)),
    "var_vq": (lambda config: {"scales": config["v_patch_nums"]}, ("decoder.",)),
}
ALL = pytest.mark.parametrize("fixture", FIXTURES)
PLAIN = Objective(perceptual=0.0, adversarial=0.0)


def loaded(parity, fixture):
    fields = FIXTURES[fixture][0](parity(fixture)[0]["config"])
    model = load_tokenizer(weights_file(fixture), **fields)
    return model, fields, FashionMNIST("train", model.image_size).images(torch.arange(4))


def changed(model, other):
    before, after = model.to_state(), other.to_state()
    assert before.keys() == after.keys()
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


@ALL
def test_post_training_moves_the_decoder_alone_and_the_file_loads_back(parity, fixture, tmp_path):
    model, fields, images = loaded(parity, fixture)
    with torch.no_grad():
        tokens = model.quantize(model.encode(images)).tokens
    stage = DecoderStage(replace(POST, objective=PLAIN, optim=replace(POST.optim, lr=0.05)), model)
    losses = [float(stage.step((tokens, images), step)["loss"]) for step in range(2)]
    assert losses[0] != losses[1]
    moved = changed(model, stage.tokenizer)
    assert moved
    assert all(name.startswith(FIXTURES[fixture][1]) for name in moved)
    stage.tokenizer.to_checkpoint(tmp_path / "tuned.safetensors")
    tuned = load_tokenizer(tmp_path / "tuned.safetensors", **fields)
    assert changed(tuned, stage.tokenizer) == set()
    assert tuned.fingerprint() == model.fingerprint()


@ALL
def test_main_training_with_perturbation(parity, fixture):
    model, _, images = loaded(parity, fixture)
    stage = TokenizerStage(replace(MAIN, tokenizer=None, semantic=0.0, objective=PLAIN), tokenizer=model)
    terms = stage.step(images, 0)
    assert all(torch.isfinite(term).all() for term in terms.values())
    moved = changed(model, stage.model)
    assert {"quantize.embedding.weight"} <= moved
    assert any(name.startswith("encoder.") for name in moved)
    assert not any(name.startswith("semantic_model.") for name in moved)


def test_a_masked_generator_is_trained_on_titoks_tokens_and_fills_in_pairs(parity, tmp_path):
    tokenizer, _, _ = loaded(parity, "titok_legacy")
    clothes = FashionMNIST("train", tokenizer.image_size).subset(torch.arange(16))
    cache = encode_images(tokenizer, clothes, tmp_path / "tokens")
    small = Masked(codebook_size=1, tokens=1, classes=1, width=32, depth=1, heads=1)
    shape = fitting(small, tokenizer, classes=10)
    config = replace(GENERATOR, generator=shape, loop=replace(GENERATOR.loop, steps=3, batch_size=8))
    generator = train_generator(config, cache, tmp_path / "run", quiet=True)
    assert isinstance(generator, MaskedModel)
    sampling = default_sampling(generator)
    how = {"sigma": 0.5, "sampling": sampling, "count": 12, "seed": 0}
    pair = make_pairs(generator, cache, tmp_path / "pairs", **how).batch(torch.arange(12))
    kept = (pair.generated == cache.plain(pair.images)).all(dim=0)
    assert 0 < kept.sum() < tokenizer.tokens_per_image
    tokens = sample(generator, torch.tensor([0, 1]), sampling, seed=0)
    assert tokenizer.decode(tokenizer.lookup(tokens)).shape == (2, 3, tokenizer.image_size, tokenizer.image_size)


def test_a_new_var_is_trained_on_its_tokenizers_tokens(parity, tmp_path):
    tokenizer, _, _ = loaded(parity, "var_vq")
    clothes = FashionMNIST("train", tokenizer.image_size).subset(torch.arange(16))
    cache = encode_images(tokenizer, clothes, tmp_path / "tokens")
    torch.manual_seed(0)
    new = VAR.beside(tokenizer, width=64, depth=1, classes=10)
    config = replace(GENERATOR, generator=None, loop=replace(GENERATOR.loop, steps=3, batch_size=8))
    trained = train_generator(config, cache, tmp_path / "run", generator=new, quiet=True)
    assert trained.fingerprint() != new.fingerprint()
    again = load_generator(tmp_path / "run")
    assert again.fingerprint() == trained.fingerprint()
    assert torch.equal(again.quantizer.embedding, tokenizer.codebook)
    tokens = sample_tokens(again, torch.tensor([0, 1]), Sampling(), seed=0)
    assert tokenizer.decode(tokenizer.lookup(tokens)).shape == (2, 3, tokenizer.image_size, tokenizer.image_size)
