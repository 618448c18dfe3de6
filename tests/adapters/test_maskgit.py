"""The MaskGIT-VQGAN with its own weights gives its numbers, and its files come back as they were."""

import pytest
import torch
from tests.adapters.parity import PARITY, check_there_and_back, published_shapes, shapes_of, stored

from robustok.adapters.maskgit import MaskGITVQGAN, MaskGITVQGANConfig
from robustok.tokenizer.encoder import to_sequence
from robustok.tokenizer.protocol import as_module, codebook_of

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # the fixture's own


@pytest.fixture
def maskgit(parity):
    meta, io = parity("maskgit_vqgan")
    return MaskGITVQGAN.from_state(stored("maskgit_vqgan"), image_size=meta["config"]["resolution"]), io


@torch.no_grad()
def test_every_stage(maskgit):
    tokenizer, io = maskgit
    images = 2 * io["image"] - 1  # the original's are in [0, 1]
    latents = tokenizer.encode(images)
    torch.testing.assert_close(latents, to_sequence(io["encoder_out"]), **CLOSE)
    quantized = tokenizer.quantize(latents)
    assert torch.equal(quantized.tokens, io["indices"])
    torch.testing.assert_close(quantized.codes, to_sequence(io["quant"]), **CLOSE)
    codes = tokenizer.lookup(io["codes"])
    torch.testing.assert_close(codes, to_sequence(io["codebook_entry"]), **CLOSE)
    decoded = tokenizer.decode(codes)
    torch.testing.assert_close((decoded + 1) / 2, io["decoder_raw"], **CLOSE)
    torch.testing.assert_close((decoded.clamp(-1, 1) + 1) / 2, io["decode"], **CLOSE)
    difference = (255 * ((decoded + 1) / 2).clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).int() - io[
        "decode_uint8"
    ].int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() >= 0.999
    torch.testing.assert_close((tokenizer(images).clamp(-1, 1) + 1) / 2, io["reconstruction"], **CLOSE)


def test_the_published_size(parity):
    parity("maskgit_vqgan")
    published = published_shapes(PARITY / "maskgit_vqgan" / "fullsize_keys_maskgit-vqgan-imagenet-f16-256.json")
    assert shapes_of(MaskGITVQGAN, MaskGITVQGANConfig()) == published
    state = {key: torch.empty(shape, device="meta") for key, shape in published.items()}
    assert MaskGITVQGAN.config_from_state(state) == MaskGITVQGANConfig()


def test_there_and_back(maskgit, tmp_path):
    assert codebook_of(as_module(maskgit[0])) is not None
    check_there_and_back(MaskGITVQGAN, stored("maskgit_vqgan"), tmp_path, image_size=maskgit[0].image_size)


def test_a_block_that_changes_its_channels_forgets_its_input(maskgit):
    block = next(b for b in maskgit[0].encoder.modules() if getattr(b, "skip", None) is not None)
    block.conv2.weight.data.zero_()
    assert not block(torch.ones(1, block.conv1.in_channels, 4, 4)).any()
