"""VAR's tokenizer: tokens of every scale, their sums, images, files there and back; pFID on the flat tokens."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.parity import assert_as_published, grid, published_keys, sequence, weights_file

from robustok.adapters.var_vq import SCALES_512, Codes, VARTokenizer, VARTokenizerConfig
from robustok.adapters.vqgan import VQGAN
from robustok.data.images import FashionMNIST
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.tokenizer.protocol import as_module, codebook_of
from robustok.tokenizer.quantizer import MultiScale


def loaded(parity):
    meta, io = parity("var_vq")
    fields = {"scales": meta["config"]["v_patch_nums"], "smoothing": meta["config"]["quant_resi"]}
    return VARTokenizer.from_checkpoint(weights_file("var_vq"), **fields), io, meta


def of_all_scales(io, meta, name):
    return torch.cat([io[f"{name}_scale{i}"] for i in range(len(meta["config"]["v_patch_nums"]))], dim=1)


@torch.no_grad()
def test_tokens_of_every_scale(parity):
    model, io, meta = loaded(parity)
    latents = model.encode(io["image"])
    assert_as_published(grid(latents), io, meta, "f")
    quantized = model.quantize(latents)
    assert torch.equal(quantized.tokens, of_all_scales(io, meta, "idx"))
    sums = list(model.quantizer.sums(quantized.tokens))
    assert_as_published(torch.stack(sums), io, meta, "f_hat_per_scale")
    assert_as_published(model.quantizer.next_inputs(quantized.tokens), io, meta, "var_input")
    assert_as_published(model.decode(quantized.codes).clamp(-1, 1), io, meta, "reconstruction")
    torch.testing.assert_close(model.lookup(quantized.tokens), sequence(sums[-1]))
    assert codebook_of(as_module(model)) is not None
    config = meta["config"]
    assert (model.image_size, model.tokens_per_image) == (config["image"], sum(s**2 for s in config["v_patch_nums"]))


@torch.no_grad()
def test_images_of_given_tokens(parity):
    model, io, meta = loaded(parity)
    tokens = of_all_scales(io, meta, "codes")
    assert_as_published(model.decode(model.lookup(tokens)).clamp(-1, 1), io, meta, "decode_codes_last")
    partly = [model.decode(sequence(x)).clamp(-1, 1) for x in model.quantizer.sums(tokens)]
    assert_as_published(torch.stack(partly), io, meta, "decode_codes_all")


def test_a_file_comes_back_bit_by_bit(parity, tmp_path):
    model, _, _ = loaded(parity)
    theirs = load_file(weights_file("var_vq"))
    model.to_checkpoint(tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)  # flat, as theirs is
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) and back[name].dtype == theirs[name].dtype for name in theirs)
    model.save_pretrained(tmp_path / "folder")
    again = VARTokenizer.from_pretrained(tmp_path / "folder")
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())


def test_the_published_model_fits(parity):
    published = parity("var_vq")[0]["fullsize"]
    for keys in published_keys("var_vq").values():
        model = VARTokenizer.from_state(keys)
        ours = {name: (weight.shape, weight.dtype) for name, weight in model.to_state().items()}
        assert ours == {name: (weight.shape, weight.dtype) for name, weight in keys.items()}
        assert model.config == type(model.config)()
        assert list(model.config.codes.scales) == published["v_patch_nums"]
        assert (model.image_size, model.tokens_per_image) == (256, 680)
        large = VARTokenizer.from_state(keys, scales=published["v_patch_nums_512"])
        assert large.config.codes.scales == SCALES_512
        assert large.image_size == 512


def test_only_the_decoder_is_the_decoder(parity):
    model, _, _ = loaded(parity)
    before, fingerprint = {name: w.clone() for name, w in model.to_state().items()}, model.fingerprint()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.25
    changed = {name for name, weight in model.to_state().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}
    assert model.fingerprint() == fingerprint
    assert model.last_layer is model.decoder.conv_out.weight


def test_one_scale_is_plain_vector_quantization():
    """With one scale and no smoothing every latent takes the nearest code."""
    codes = MultiScale(Codes(scales=(2,), codebook_size=8, width=3, smoothers=1, smoothing=0.0))
    latents = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    quantized = codes(latents)
    assert torch.equal(quantized.tokens, torch.cdist(latents, codes.embedding.expand(2, -1, -1)).argmin(-1))
    torch.testing.assert_close(quantized.codes, codes.embedding[quantized.tokens])
    torch.testing.assert_close(quantized.loss, 1.25 * (quantized.codes - latents).square().mean())


def test_gradients_reach_latents_codebook_and_smoothing(parity):
    model, io, _ = loaded(parity)
    model.requires_grad_(True)
    latents = model.encode(io["image"]).detach().requires_grad_()
    quantized = model.quantize(latents)
    quantized.codes.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))  # straight through all scales
    assert model.quantizer.embedding.grad is None
    model.quantize(latents).loss.backward()
    for weight in (model.quantizer.embedding, model.quantizer.smooth[0].weight):
        assert weight.grad.abs().sum() > 0
    passed = model.straight_through(latents, quantized.codes.detach())
    torch.testing.assert_close(passed, quantized.codes)


def test_an_error_at_a_coarse_scale_moves_the_whole_image(parity):
    """What pFID's perturbation of the flat tokens does."""
    model, io, meta = loaded(parity)
    tokens = of_all_scales(io, meta, "codes")
    wrong = tokens.clone()
    wrong[:, 0] = (tokens[:, 0] + 1) % len(model.codebook)
    moved = (model.lookup(wrong) - model.lookup(tokens)).abs().sum(dim=2)
    assert (moved > 0).all()
    wrong = tokens.clone()
    wrong[:, -1] = (tokens[:, -1] + 1) % len(model.codebook)
    moved = (model.lookup(wrong) - model.lookup(tokens)).abs().sum(dim=2)
    assert (moved > 0).sum(dim=1).tolist() == [4] * len(tokens)  # a corner and what the 3 x 3 smoothing reaches


def test_refusals(parity):
    model, io, _ = loaded(parity)
    side = model.image_size
    with pytest.raises(ValueError, match=rf"takes images of {side} x {side} pixels, not {side // 2} x {side}"):
        model.encode(io["image"][..., : side // 2, :])
    with pytest.raises(ValueError, match=r"7 tokens are not those of maps with sides \(1, 2.*; pass the tokens of all"):
        model.lookup(torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"scales are \(2, 1\); give the sides .* from the smallest to the largest"):
        Codes(scales=(2, 1))
    state = model.to_state()
    del state["quant_conv.bias"]
    with pytest.raises(ValueError, match=r"no checkpoint of var-vq: 1 keys missing \(quant_conv.bias\)"):
        VARTokenizer.from_state(state)


def test_pfid_acts_on_the_tokens_of_all_scales():
    torch.manual_seed(0)
    codes = Codes(scales=(1, 2, 4), codebook_size=256, width=8)
    network = VQGAN(channels=(32, 32, 32, 32), blocks=1, latent=8, stem=32)
    model = VARTokenizer(VARTokenizerConfig(network=network, codes=codes)).eval()
    clothes = FashionMNIST("validation").subset(torch.arange(6))
    scores = {score.metric: score for score in score_tokenizer(model, clothes, shades)}
    assert scores["pfid"].protocol["cells"] == 15
    assert scores["pfid"].images == 6
    assert all(math.isfinite(scores[name].value) for name in ("rfid", "pfid", "psnr"))
    assert 0 < scores["codebook_use"].value <= 1


def shades(pixels):
    return torch.nn.functional.avg_pool2d(pixels.float(), 16).flatten(1) / 50
