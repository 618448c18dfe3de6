"""MAETok: latents, images, files there and back, statistics of the latents, refusals; only the decoder is trained."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.adapters.parity import assert_as_published, published_keys, weights_file

from robustok.adapters.maetok import MAETok, MAETokConfig
from robustok.adapters.vit import Transformer
from robustok.tokenizer.protocol import as_module, codebook_of

BOTH = pytest.mark.parametrize("fixture", ["maetok", "maetok_ape"])


def loaded(parity, fixture="maetok", **fields):
    meta, io = parity(fixture)
    return MAETok.from_checkpoint(weights_file(fixture), heads=meta["config"]["num_heads"], **fields), io, meta


@BOTH
@torch.no_grad()
def test_latents_and_images(parity, fixture):
    model, io, meta = loaded(parity, fixture)
    assert_as_published(model.encoder(io["image"]), io, meta, "encoder_tokens")
    assert_as_published(model.encode(io["image"]), io, meta, "latents")
    assert_as_published(model.decode(model.encode(io["image"])), io, meta, "reconstruction")
    assert_as_published(model.decode(io["given_latents"]), io, meta, "decode_given")
    assert codebook_of(as_module(model)) is None
    config = meta["config"]
    assert (model.image_size, model.tokens_per_image) == (config["image_size"], config["num_latent_tokens"])


@torch.no_grad()
def test_generators_see_normalized_latents(parity):
    model, io, meta = loaded(parity, mean=0.3, std=2.0)
    torch.testing.assert_close(model.encode(io["image"]), (io["latents"] - 0.3) / 2, atol=1e-4, rtol=1e-4)
    assert_as_published(model.decode((io["given_latents"] - 0.3) / 2), io, meta, "decode_given")
    assert model.fingerprint() != loaded(parity)[0].fingerprint()


def test_the_statistics_beside_the_file_are_read(parity, tmp_path):
    heads = parity("maetok")[0]["config"]["num_heads"]
    save_file(load_file(weights_file("maetok")), tmp_path / "model.safetensors")
    for written in ({"vq_mean": 0.5, "vq_std": 3.0}, {"config": {"vq_mean": 0.5, "vq_std": 3.0}}):
        (tmp_path / "config.json").write_text(json.dumps(written))
        config = MAETok.from_checkpoint(tmp_path / "model.safetensors", heads=heads).config
        assert (config.mean, config.std) == (0.5, 3.0)
    given = MAETok.from_checkpoint(tmp_path / "model.safetensors", heads=heads, std=4.0).config
    assert (given.mean, given.std) == (0.5, 4.0)
    (tmp_path / "config.json").write_text("no JSON")
    assert MAETok.from_checkpoint(tmp_path / "model.safetensors", heads=heads).config.std == 1.0


@BOTH
def test_a_file_comes_back_bit_by_bit(parity, fixture, tmp_path):
    model, _, _ = loaded(parity, fixture)
    theirs = load_file(weights_file(fixture))
    model.to_checkpoint(tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) and back[name].dtype == theirs[name].dtype for name in theirs)
    model.save_pretrained(tmp_path / "folder")
    again = MAETok.from_pretrained(tmp_path / "folder")
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())


@BOTH
def test_the_published_model_fits(fixture):
    for keys in published_keys(fixture).values():
        model = MAETok.from_state(keys)
        ours = model.to_state()
        assert {name: (w.shape, w.dtype) for name, w in ours.items()} == {
            n: (w.shape, w.dtype) for n, w in keys.items()
        }
        assert (model.image_size, model.tokens_per_image, model.config.channels) == (256, 128, 32)
        assert model.config.encoder == model.config.decoder


def test_what_training_left_in_a_file_is_put_aside_and_written_back(parity):
    model, io, _ = loaded(parity)
    more = {"decoder_hog.model.norm.bias": torch.ones(3), "repa_model.norm.bias": torch.ones(2)}
    state = load_file(weights_file("maetok")) | more
    full = MAETok.from_state(state, heads=model.config.encoder.heads)
    assert full.to_state().keys() == state.keys()
    with torch.no_grad():
        assert torch.equal(full.encode(io["image"]), model.encode(io["image"]))


@torch.no_grad()
def test_rotary_positions_of_another_size_are_worked_out(parity):
    """As in a file for 512 pixels that keeps the coordinates of 256."""
    model, io, _ = loaded(parity)
    before = model.encode(io["image"])
    for vision in (model.encoder.vision, model.decoder.vision):
        vision.columns, vision.rows = vision.columns[:1], vision.rows[:1]
    assert torch.equal(model.encode(io["image"]), before)


def test_the_decoder_is_exactly_theirs_and_all_that_decoding_trains(parity):
    model, io, _ = loaded(parity)
    decoder = {name for name in load_file(weights_file("maetok")) if name.startswith("decoder.")}
    assert len(model.decoder.state_dict()) == len(decoder)
    before, fingerprint = model.to_state(), model.fingerprint()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.01
    changed = {name for name, weight in model.to_state().items() if not torch.equal(weight, before[name])}
    assert changed <= decoder
    assert model.fingerprint() == fingerprint
    assert model.last_layer is model.decoder.out.weight
    assert model.decode(io["given_latents"]).shape == io["image"].shape


def small(**changes):
    size = Transformer(width=16, depth=1, heads=2, hidden=24)
    config = {"image_size": 16, "patch": 8, "tokens": 3, "channels": 5, "encoder": size, "decoder": size, "rotary": 4}
    torch.manual_seed(0)
    return MAETok(MAETokConfig(**{**config, **changes}))


def test_every_option_is_read_from_the_weights():
    other = Transformer(width=24, depth=2, heads=2, hidden=40)
    for changes in (
        {},
        {"decoder": other, "masked": False},
        {"rotary": 0, "layer_scale": False},
        {"decoder_class_token": False},
        {"rotary": 9},
    ):
        model = small(**changes)
        again = MAETok.from_state(model.to_state(), heads=2)
        assert again.config == model.config
        images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(again.decode(again.encode(images)), model.decode(model.encode(images)))


def test_refusals():
    with pytest.raises(ValueError, match="takes images of 16 x 16 pixels, not 8 x 16; resize or crop them first"):
        small().encode(torch.zeros(1, 3, 8, 16))
    state = small().to_state()
    with pytest.raises(ValueError, match="weights 16 wide do not tell their attention heads; pass heads, a divisor of"):
        MAETok.from_state(state)
    with pytest.raises(ValueError, match=r"is no checkpoint of maetok: its keys are like"):
        MAETok.from_state({name: w for name, w in state.items() if "latent" not in name})
    with pytest.raises(ValueError, match="without rotary positions a decoder needs its class token; give a whole"):
        small(rotary=0, decoder_class_token=False)
    with pytest.raises(ValueError, match=r"std is 0.0; it is the standard deviation of the latents, vq_std, above 0"):
        small(std=0.0)
    del state["decoder.mask_token"]
    with pytest.raises(ValueError, match=r"no checkpoint of maetok: 1 keys missing \(decoder.mask_token\)"):
        MAETok.from_state(state, heads=2)
