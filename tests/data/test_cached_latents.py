"""Cached latents: what is kept, mirrored views, whose they are."""

import pytest
import torch
from tests.training.continuous import Patches

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.runtime.checkpoint import read_json
from robustok.tokenizer.protocol import as_module, codebook_of, codes_of, decoding_with

COUNT = 20


@pytest.fixture(scope="module")
def images():
    chosen = FashionMNIST("train").subset(torch.arange(COUNT))
    chosen.flip = True
    return chosen


def test_latents_are_those_of_the_images_and_of_their_mirror_images(images, tmp_path):
    tokenizer, heard = Patches(), []
    cache = encode_images(tokenizer, images, tmp_path, batch_size=6, shard_size=8, progress=heard.append)
    assert (len(cache), cache.latent_shape, heard) == (COUNT, (16, 12), [8, 16, 20])
    rows = torch.tensor([3, 19, 0])
    wanted = tokenizer.encode(images.images(rows))
    # float16 keeps 11 bits
    assert torch.allclose(cache.plain(rows), wanted, rtol=2**-11, atol=2**-24)
    assert cache.plain(rows).dtype == torch.float32
    latents, labels = cache.batch(torch.arange(COUNT), torch.Generator().manual_seed(0))
    assert torch.equal(labels, images.labels)
    every = images.images(torch.arange(COUNT))
    upright, mirrored = (
        torch.isclose(latents, tokenizer.encode(view), rtol=2**-11, atol=2**-24).all(dim=(1, 2))
        for view in (every, every.flip(3))
    )
    assert (upright | mirrored).all()
    assert 0 < upright.sum() < COUNT


def test_latents_of_another_tokenizer_are_refused(images, tmp_path):
    encode_images(Patches(), images, tmp_path)
    with pytest.raises(ValueError, match=r"holds latents of tokenizer \w+, not of \w+; encode the images again"):
        LatentCache(tmp_path, Patches(seed=1))
    with pytest.raises(ValueError, match="was made with tokenizer"):
        encode_images(Patches(seed=1), images, tmp_path)


def test_a_cache_says_by_which_statistics_its_latents_were_normalized(images, tmp_path):
    encode_images(Patches(), images, tmp_path / "none")
    assert not {"latent_mean", "latent_scale"} & read_json(tmp_path / "none" / "manifest.json").keys()
    tokenizer = Patches()
    tokenizer.register_buffer("latent_mean", torch.linspace(-1, 1, 12))
    tokenizer.register_buffer("latent_scale", torch.full((12,), 0.1))
    encode_images(tokenizer, images, tmp_path / "some")
    encode_images(tokenizer, images, tmp_path / "some")  # the same ones are no other way to have made it
    manifest = read_json(tmp_path / "some" / "manifest.json")
    assert torch.equal(torch.tensor(manifest["latent_mean"]), tokenizer.latent_mean)
    assert torch.equal(torch.tensor(manifest["latent_scale"]), tokenizer.latent_scale)


def test_latents_that_float16_cannot_hold_are_refused(images, tmp_path):
    tokenizer = Patches()
    tokenizer.encoder.bias.data.fill_(1e5)
    with pytest.raises(ValueError, match=r"not finite in float16 \(the largest is .*e\+05\); scale the tokenizer's"):
        encode_images(tokenizer, images, tmp_path)


def test_latents_are_decoded_as_they_are_and_a_decoder_can_be_lent():
    tokenizer = Patches()
    assert codebook_of(as_module(tokenizer)) is None
    latents = torch.randn(2, 16, 12)
    assert torch.equal(codes_of(tokenizer, latents), latents)
    own, other = tokenizer.decode(latents), Patches(seed=1)
    with decoding_with(tokenizer, other.decoder):
        assert torch.equal(tokenizer.decode(latents), other.decode(latents))
    assert torch.equal(tokenizer.decode(latents), own)


def test_latents_are_cached_under_autocast_too(tmp_path):
    """In half precision, which autocast does not join on a CPU."""
    images = FashionMNIST("train").subset(torch.arange(6))
    with torch.autocast("cpu", torch.bfloat16):
        cache = encode_images(Patches(), images, tmp_path / "a", batch_size=4)
    plain = encode_images(Patches(), images, tmp_path / "b")
    torch.testing.assert_close(cache.plain(torch.arange(6)), plain.plain(torch.arange(6)), rtol=0.05, atol=0.05)
