"""TiTok, legacy and direct: codes, images, files there and back; only what makes the image is trained."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.parity import assert_as_published, published_keys, weights_file

from robustok.adapters.titok import TiTok
from robustok.tokenizer.protocol import as_module, codebook_of

BOTH = pytest.mark.parametrize("fixture", ["titok_legacy", "titok_vq8k"])


def loaded(parity, fixture):
    meta, io = parity(fixture)
    fields = {"heads": meta["config"]["heads"], "normalized": meta["config"]["use_l2_norm"]}
    return TiTok.from_checkpoint(weights_file(fixture), **fields), io, meta


def theirs(latents):
    """(b n d) as (b d 1 n)."""
    return latents.mT.unsqueeze(2)


@BOTH
@torch.no_grad()
def test_codes(parity, fixture):
    model, io, meta = loaded(parity, fixture)
    latents = model.encode(2 * io["image"] - 1)
    assert_as_published(theirs(latents), io, meta, "encoder_out")
    quantized = model.quantize(latents)
    assert_as_published(theirs(quantized.codes), io, meta, "quant")
    assert_as_published(quantized.tokens.unsqueeze(1), io, meta, "indices")
    assert codebook_of(as_module(model)) is not None
    config = meta["config"]
    assert (model.image_size, model.tokens_per_image) == (config["crop"], config["num_latent_tokens"])
    assert model.codebook.shape == (config["codebook_size"], config["token_size"])
    assert model.config.normalized == config["use_l2_norm"]


@BOTH
@torch.no_grad()
def test_images(parity, fixture):
    model, io, meta = loaded(parity, fixture)
    images = model.decode(io["quant"].squeeze(2).mT)
    assert_as_published((images + 1) / 2, io, meta, "decode")
    images = model.decode(model.lookup(io["codes"].squeeze(1)))
    assert_as_published((images + 1) / 2, io, meta, "decode_tokens")


@BOTH
def test_a_file_comes_back_bit_by_bit(parity, fixture, tmp_path):
    model, _, _ = loaded(parity, fixture)
    original = load_file(weights_file(fixture))
    model.to_checkpoint(tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[n], original[n]) and back[n].dtype == original[n].dtype for n in original)
    model.save_pretrained(tmp_path / "folder")
    again = TiTok.from_pretrained(tmp_path / "folder")
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())


@BOTH
def test_the_published_model_fits(parity, fixture):
    published = parity(fixture)[0]["fullsize"]["config"]["model"]["vq_model"]
    for keys in published_keys(fixture).values():
        model = TiTok.from_state(keys)
        ours = {name: (weight.shape, weight.dtype) for name, weight in model.to_state().items()}
        assert ours == {name: (weight.shape, weight.dtype) for name, weight in keys.items()}
        config = model.config
        assert (config.tokens, config.codebook_size) == (published["num_latent_tokens"], published["codebook_size"])
        assert (config.normalized, model.image_size) == (published["use_l2_norm"], 256)
        if fixture == "titok_legacy":
            assert config == type(config)()


@BOTH
def test_the_decoder_is_what_the_authors_second_stage_trains(parity, fixture):
    model, _, _ = loaded(parity, fixture)
    before, fingerprint = {name: w.clone() for name, w in model.to_state().items()}, model.fingerprint()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.25
    changed = {name for name, weight in model.to_state().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith(("decoder.", "pixel_decoder."))}
    assert model.fingerprint() == fingerprint
    head = model.decoder.head
    assert model.last_layer is (head.pixels.conv_out if fixture == "titok_legacy" else head.smooth).weight


@torch.no_grad()
def test_every_legacy_latent_is_of_all_tokens(parity):
    """A legacy encoder reads the memory of its latent tokens (n, c) as (c, n)."""
    for fixture, moves in (("titok_legacy", "all"), ("titok_vq8k", "its own")):
        model, io, _ = loaded(parity, fixture)
        model.encoder.vision.blocks = torch.nn.Sequential()  # tokens do not see each other
        plain = model.encode(2 * io["image"] - 1)
        model.encoder.latents[0] += torch.linspace(-1, 1, model.config.encoder.width)
        moved = (model.encode(2 * io["image"] - 1) != plain).any(dim=2)
        assert moved.sum(dim=1).tolist() == [model.tokens_per_image if moves == "all" else 1] * len(moved)


def test_a_folder_of_an_earlier_version_is_read(parity, tmp_path):
    model, _, _ = loaded(parity, "titok_vq8k")
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for part, patch in (("encoder", "patch"), ("decoder", "decoder_patch")):  # whose sizes had their patch
        saved["config"][part]["patch"] = saved["config"].pop(patch)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    again = TiTok.from_pretrained(tmp_path)
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())


def test_refusals(parity):
    model, io, _ = loaded(parity, "titok_vq8k")
    side = model.image_size
    with pytest.raises(ValueError, match=rf"takes images of {side} x {side} pixels, not {side // 2} x {side}"):
        model.encode(io["image"][..., : side // 2, :])
    state = model.to_state()
    with pytest.raises(ValueError, match="wide do not tell their attention heads; pass heads, a divisor of"):
        TiTok.from_state(state)
    continuous = {name: weight for name, weight in state.items() if not name.startswith("quantize.")}
    with pytest.raises(ValueError, match="no checkpoint of titok: its keys are like"):
        TiTok.from_state(continuous)
    state["decoder.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"no checkpoint of titok: 1 keys unexpected \(decoder.extra\)"):
        TiTok.from_state(state, heads=model.config.encoder.heads)
