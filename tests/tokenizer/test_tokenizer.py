"""Encoder, decoder and the assembled tokenizer."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from robustok.runtime.checkpoint import fingerprint, save_model
from robustok.tokenizer.encoder import Conv, ViT, patchify, to_map, to_sequence, unpatchify
from robustok.tokenizer.quantizer import VQ, VectorQuantizer
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

CONV = Conv(channels=(8, 16), blocks=1, stem=2)
SHARED = ViT(patch=4, latents=16, width=32, depth=2, heads=2)  # as many latents as patches
FEWER = ViT(patch=4, latents=5, width=32, depth=2, heads=2, layer_scale=None)


def tokenizer(part: Conv | ViT = CONV, seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    config = TokenizerConfig(image_size=16, encoder=part, decoder=part, quantizer=VQ(codebook_size=12, width=6))
    return Tokenizer(config)


def test_patches_keep_row_column_and_channel_apart():
    images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).float()
    x = patchify(images, 4)
    assert x.shape == (2, 4, 48)
    # patch 1 is the upper right one; inside it row 2, column 3, channel 1
    assert x[1, 1, (2 * 4 + 3) * 3 + 1] == images[1, 1, 2, 4 + 3]
    assert torch.equal(unpatchify(x, 4, 8), images)


def test_sequences_and_maps_are_inverse():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(to_map(to_sequence(x)), x)


@pytest.mark.parametrize(("part", "n"), [(CONV, 16), (SHARED, 16), (FEWER, 5)])
def test_images_become_tokens_and_images_again(part, n):
    model = tokenizer(part)
    images = torch.randn(2, 3, 16, 16)
    quantized = model.quantize(model.encode(images))
    assert quantized.tokens.shape == (2, n) == (2, model.tokens_per_image)
    decoded = model.decode(quantized.codes)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, model.decode(model.lookup(quantized.tokens)), atol=1e-5, rtol=1e-5)
    decoded.square().mean().backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None}
    assert used == {name for name, _ in model.named_parameters()} - {"quantizer.embedding"}


@pytest.mark.parametrize("part", [CONV, SHARED, FEWER])
def test_an_image_does_not_see_its_neighbors_in_the_batch(part):
    model = tokenizer(part).eval()
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-5, rtol=1e-5)


def test_every_patch_of_a_vision_transformer_sees_the_whole_code():
    model = tokenizer(FEWER)
    codes = model.lookup(torch.arange(5)[None])
    other = codes.clone()
    other[:, 4] = model.lookup(torch.tensor([[11]]))[:, 0]
    assert (model.decode(codes) != model.decode(other)).flatten(2).any(dim=2).all()


def test_fingerprint_follows_encoder_and_codebook_not_decoder():
    a, b = tokenizer(), tokenizer()
    assert a.fingerprint() == b.fingerprint()
    with torch.no_grad():
        b.decoder.out.bias += 1
    assert a.fingerprint() == b.fingerprint()
    with torch.no_grad():
        b.quantizer.embedding[0, 0] += 1e-3
    assert a.fingerprint() != b.fingerprint()
    assert fingerprint({"x": torch.zeros(2)}) != fingerprint({"y": torch.zeros(2)})
    assert fingerprint({"x": torch.zeros(2)}) != fingerprint({"x": torch.zeros(1, 2)})


def test_fingerprint_is_of_weights_and_not_of_what_is_computed_from_them(monkeypatch):
    model = tokenizer()
    before = model.fingerprint()
    as_elsewhere = property(lambda self: torch.nn.functional.normalize(self.embedding, dim=-1) * (1 + 1e-6))
    monkeypatch.setattr(VectorQuantizer, "codebook", as_elsewhere)  # another device adds up in another order
    assert model.fingerprint() == before
    assert before not in model.earlier_fingerprints()
    monkeypatch.undo()
    config = replace(model.config, quantizer=replace(model.config.quantizer, normalized=False))
    other = Tokenizer(config)
    other.load_state_dict(model.state_dict())
    assert other.fingerprint() != before  # the same weights, other codes


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="takes images of 16 x 16 pixels, not 16 x 24"):
        tokenizer().encode(torch.zeros(1, 3, 16, 24))
    with pytest.raises(ValueError, match="side 18 is not a multiple of the patch size 4; crop to 16"):
        TokenizerConfig(image_size=18, encoder=CONV, decoder=CONV)
    with pytest.raises(ValueError, match="encoder makes 5 tokens and the decoder reads 16"):
        TokenizerConfig(image_size=16, encoder=FEWER, decoder=SHARED)
    with pytest.raises(ValueError, match="5 tokens do not form a square map"):
        to_map(torch.zeros(1, 5, 2))


def test_a_saved_tokenizer_comes_back(tmp_path):
    model = tokenizer(FEWER)
    model.save_pretrained(tmp_path, note="kept")
    again = Tokenizer.from_pretrained(tmp_path)
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(images), model.eval()(images))
    assert again.config == model.config
    assert not again.training


def test_weights_of_another_model_are_refused(tmp_path):
    tokenizer(FEWER).save_pretrained(tmp_path)
    other = tokenizer(SHARED).state_dict()
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing \(decoder.latent_positions\).*encoder.latent_tokens \(16, 32\)"):
        Tokenizer.from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    save_model(tmp_path, tokenizer().state_dict(), {"kind": "generator", "config": {}})
    with pytest.raises(ValueError, match="holds a generator, not a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", [CONV, SHARED])
def test_a_tokenizer_for_gray_images_makes_gray_images(part):
    config = TokenizerConfig(
        image_size=16, encoder=part, decoder=part, quantizer=VQ(codebook_size=12, width=6), channels=1
    )
    red, green, blue = Tokenizer(config)(torch.randn(2, 3, 16, 16)).unbind(dim=1)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)
