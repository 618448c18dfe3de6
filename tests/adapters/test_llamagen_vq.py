"""LlamaGen's tokenizer with its own weights gives its numbers, and its files come back as they were."""

import pytest
import torch
from tests.adapters.parity import PARITY, check_there_and_back, published_pixels, published_shapes, shapes_of, stored

from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.vqgan import VQGAN
from robustok.tokenizer.encoder import to_sequence
from robustok.tokenizer.protocol import as_module, codebook_of

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # the fixture's own


@pytest.fixture
def llamagen(parity):
    meta, io = parity("llamagen_vq")
    return LlamaGenVQ.from_state(stored("llamagen_vq"), image_size=meta["config"]["image"]), io


@torch.no_grad()
def test_encode_and_quantize(llamagen):
    tokenizer, io = llamagen
    torch.testing.assert_close(tokenizer.encoder(io["image"]), io["encoder_out"], **CLOSE)
    latents = tokenizer.encode(io["image"])
    torch.testing.assert_close(latents, to_sequence(io["quant_conv_out"]), **CLOSE)
    quantized = tokenizer.quantize(latents)
    assert torch.equal(quantized.tokens.flatten(), io["indices"])
    torch.testing.assert_close(quantized.codes, to_sequence(io["quant"]), **CLOSE)


@torch.no_grad()
def test_decode(llamagen):
    tokenizer, io = llamagen
    torch.testing.assert_close(tokenizer.decode(to_sequence(io["quant"])), io["reconstruction"], **CLOSE)
    codes = tokenizer.lookup(io["codes"])
    torch.testing.assert_close(codes, to_sequence(io["codebook_entry"]), **CLOSE)
    images = tokenizer.decode(codes)
    torch.testing.assert_close(images, io["decode_code"], **CLOSE)
    difference = published_pixels(images).permute(0, 2, 3, 1).int() - io["decode_code_uint8"].int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() >= 0.999


@pytest.mark.parametrize(("name", "channels"), [("VQ-16", (128, 128, 256, 256, 512)), ("VQ-8", (128, 256, 256, 512))])
def test_the_published_sizes(parity, name, channels):
    parity("llamagen_vq")
    published = published_shapes(PARITY / "llamagen_vq" / f"fullsize_keys_{name}.json")
    assert shapes_of(LlamaGenVQ, LlamaGenVQConfig(network=VQGAN(channels=channels))) == published
    config = LlamaGenVQ.config_from_state({key: torch.empty(shape, device="meta") for key, shape in published.items()})
    assert config == LlamaGenVQConfig(network=VQGAN(channels=channels))


def test_there_and_back(llamagen, tmp_path):
    check_there_and_back(LlamaGenVQ, stored("llamagen_vq"), tmp_path, image_size=llamagen[0].image_size)


def test_it_is_a_tokenizer_whose_decoder_is_the_files(llamagen):
    tokenizer = llamagen[0]
    assert codebook_of(as_module(tokenizer)) is not None
    before = tokenizer.fingerprint()
    for parameter in tokenizer.decoder.parameters():
        parameter.data += 1
    assert tokenizer.fingerprint() == before
    was = stored("llamagen_vq")
    changed = {name for name, weight in tokenizer.to_state().items() if not torch.equal(weight, was[name])}
    assert changed == {name for name in was if name.startswith("decoder.")}
    tokenizer.to_code.weight.data += 1
    assert tokenizer.fingerprint() != before


def test_a_new_one_trains():
    tokenizer = LlamaGenVQ(
        LlamaGenVQConfig(image_size=16, network=VQGAN(channels=(32, 32), blocks=1, latent=32, stem=32), codebook_size=8)
    )
    images = torch.zeros(2, 3, 16, 16)
    quantized = tokenizer.quantize(tokenizer.encode(images))
    (tokenizer.decode(quantized.codes).square().mean() + quantized.loss).backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())
