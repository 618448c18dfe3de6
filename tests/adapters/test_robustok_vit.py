"""The released RobusTok tokenizer: codes, images, losses, files there and back; only the decoder is trained."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.adapters.parity import assert_as_published, grid, published_keys, published_pixels, sequence, weights_file

from robustok.adapters.robustok_vit import RobusTokViT
from robustok.shapes import to_pixels
from robustok.tokenizer.protocol import as_module, codebook_of


def loaded(parity):
    meta, io = parity("robustok_vit")
    config = meta["config"]
    fields = {"heads": config["num_heads"], "normalized": config["codebook_l2_norm"]}
    return RobusTokViT.from_checkpoint(weights_file("robustok_vit"), **fields), io, meta


@torch.no_grad()
def test_codes(parity):
    model, io, meta = loaded(parity)
    assert_as_published(model.encoder(io["image"]), io, meta, "encoder_tokens")
    latents = model.encode(io["image"])
    assert_as_published(grid(latents), io, meta, "quant_conv_out")
    quantized = model.quantize(latents)
    assert_as_published(quantized.tokens.flatten(), io, meta, "indices")
    assert_as_published(grid(quantized.codes), io, meta, "quant")
    assert codebook_of(as_module(model)) is not None
    config = meta["config"]
    assert (model.image_size, model.tokens_per_image) == (config["img_size"], config["num_latent_tokens"])
    assert model.codebook.shape == (config["codebook_size"], config["codebook_embed_dim"])


@torch.no_grad()
def test_images(parity):
    model, io, meta = loaded(parity)
    images = model.decode(sequence(io["quant"]))
    assert_as_published(images, io, meta, "reconstruction")
    assert_as_published(model(io["image"]).clamp(-1, 1), io, meta, "reconstruction_clamped")
    codes = model.lookup(io["codes"])
    assert_as_published(grid(codes), io, meta, "codebook_entry")
    images = model.decode(codes)
    assert_as_published(images, io, meta, "decode_tokens")
    theirs = io["decode_tokens_uint8"].permute(0, 3, 1, 2).int()
    truncated = published_pixels(images).int()
    assert (truncated == theirs).float().mean() >= 0.999
    assert (truncated - theirs).abs().max() <= 1
    assert (to_pixels(images).int() - theirs).abs().max() <= 1


def test_what_its_training_asks_for(parity):
    model, io, meta = loaded(parity)
    model.train()
    assert_as_published(model.semantic_features(io["image"]), io, meta, "semantic_features")
    latents = model.encode(io["image"])
    quantized = model.quantize(latents)
    placed, codes = model.quantizer.project(latents), model.lookup(quantized.tokens)
    taught = F.linear(model.semantic_features(io["image"]), model.to_code.weight.flatten(1), model.to_code.bias)
    products, match = taught @ quantized.codes.mean(dim=1).T, torch.arange(len(latents))
    terms = {  # as the released training weighs them
        "vq": F.mse_loss(codes, placed.detach()),
        "commit": 0.25 * F.mse_loss(placed, codes.detach()),
        "sem": 0.1 * (F.cross_entropy(products, match) + F.cross_entropy(products.T, match)) / 2,
    }
    for name, term in terms.items():
        assert_as_published(term.detach().view(1), io, meta, f"train_{name}_loss")
    torch.testing.assert_close(quantized.loss, terms["vq"] + terms["commit"])
    assert_as_published(model.decode(quantized.codes).detach(), io, meta, "train_reconstruction")
    terms["sem"].backward()
    assert model.to_code.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.teacher.parameters())


def test_a_released_torch_file_is_read_by_its_average_and_comes_back(parity, tmp_path):
    model, io, _ = loaded(parity)
    ema = model.to_state()
    trained = {name: torch.zeros_like(weight) for name, weight in ema.items()}
    path = tmp_path / "main-train.pt"
    args = argparse.Namespace(lr=3e-5, config="configs/main-train.yaml")
    torch.save({"model": trained, "ema": ema, "optimizer": {"state": {}}, "steps": 7, "args": args}, path)
    fields = {"heads": model.config.encoder.heads, "normalized": model.config.normalized}
    again = RobusTokViT.from_checkpoint(path, **fields)
    assert again.fingerprint() == model.fingerprint()
    again.to_checkpoint(tmp_path / "post-train.pt")
    held = torch.load(tmp_path / "post-train.pt", weights_only=True)
    for entry in ("model", "ema"):  # their generator loads one after the other, strictly
        assert list(held[entry]) == list(ema)
        assert all(torch.equal(held[entry][name], weight) for name, weight in ema.items())
    assert torch.equal(again.encode(io["image"]), model.encode(io["image"]))


def test_a_file_comes_back_bit_by_bit(parity, tmp_path):
    model, _, _ = loaded(parity)
    theirs = load_file(weights_file("robustok_vit"))
    model.to_checkpoint(tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) and back[name].dtype == theirs[name].dtype for name in theirs)
    model.save_pretrained(tmp_path / "folder")
    again = RobusTokViT.from_pretrained(tmp_path / "folder")
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())


def test_the_published_model_fits(parity):
    published = parity("robustok_vit")[0]["fullsize"]
    for keys in published_keys("robustok_vit").values():
        model = RobusTokViT.from_state(keys)
        assert {n: (w.shape, w.dtype) for n, w in model.to_state().items()} == {
            n: (w.shape, w.dtype) for n, w in keys.items()
        }
        assert (model.image_size, model.tokens_per_image) == (published["image_size"], published["num_latent_tokens"])
        with torch.device("meta"):
            assert RobusTokViT(type(model.config)()).to_state().keys() == keys.keys()  # the defaults are the published


def test_a_file_without_the_teacher_will_do(parity):
    model, io, _ = loaded(parity)
    state = {name: w for name, w in model.to_state().items() if not name.startswith("semantic_model.")}
    bare = RobusTokViT.from_state(state, heads=model.config.encoder.heads, normalized=model.config.normalized)
    assert bare.fingerprint() == model.fingerprint()
    assert bare.to_state().keys() == state.keys()
    with pytest.raises(ValueError, match=r"no semantic_model\.\*; load main-train\.pt or post-train\.pt"):
        bare.semantic_features(io["image"])


def test_the_decoder_is_exactly_theirs_and_does_not_decide_the_tokens(parity):
    model, _, _ = loaded(parity)
    before, fingerprint = model.to_state(), model.fingerprint()
    before = {name: weight.clone() for name, weight in before.items()}
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.25
    changed = {name for name, weight in model.to_state().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("decoder.")} - {"decoder.lvl1LC"}
    assert model.fingerprint() == fingerprint
    assert model.last_layer is model.decoder.out.weight


def test_perturbed_codes_pass_their_gradient_to_the_latents(parity):
    model, io, _ = loaded(parity)
    latents = model.encode(io["image"]).detach().requires_grad_()
    codes = model.lookup(io["codes"])
    passed = model.straight_through(latents, codes)
    torch.testing.assert_close(passed, codes)
    passed.square().sum().backward()
    assert latents.grad.abs().sum() > 0


def test_whether_codes_are_normalized_is_part_of_the_fingerprint(parity):
    model, _, _ = loaded(parity)
    fields = {"heads": model.config.encoder.heads, "normalized": not model.config.normalized}
    other = RobusTokViT.from_state(model.to_state(), **fields)
    assert other.fingerprint() != model.fingerprint()
    assert not torch.allclose(other.codebook, model.codebook)


def test_refusals(parity):
    model, io, _ = loaded(parity)
    half = model.image_size // 2
    with pytest.raises(ValueError, match=rf"images of {model.image_size} x {model.image_size} pixels, not {half} x"):
        model.encode(io["image"][..., :half, :])
    state = model.to_state()
    with pytest.raises(ValueError, match=r"wide do not tell their attention heads; pass heads, a divisor of"):
        RobusTokViT.from_state(state)
    del state["decoder.mask_token"]
    with pytest.raises(ValueError, match=r"no checkpoint of robustok: 1 keys missing \(decoder.mask_token\)"):
        RobusTokViT.from_state(state, heads=model.config.encoder.heads)
