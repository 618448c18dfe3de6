"""The token cache: what it holds, where it goes on, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from robustok.data.latent_cache import LatentCache, encode_images, token_type
from robustok.data.shards import MANIFEST
from robustok.tokenizer.quantizer import Quantized


class Pictures:
    """Ten 3 x 4 images with one number a pixel, from 0 up."""

    size, classes = 4, ("even", "odd")

    def __init__(self, flip: bool = True, count: int = 10, name: str = "pictures"):
        self.flip, self.name, self.labels = flip, name, torch.arange(count) % 2
        self.values = torch.arange(count * 12).float().view(count, 1, 3, 4).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        return self.values[indices]

    def training_images(self, indices: Tensor, draws: Tensor) -> Tensor:
        raise AssertionError("a cache is of the fixed view")

    def describe(self) -> dict:
        return {"name": self.name, "grid": (3, 4)}

    def subset(self, indices: Tensor):
        raise AssertionError


class Reader:
    """A tokenizer for which every pixel is a token: its value, plus `offset`."""

    image_size, tokens_per_image = 4, 12

    def __init__(self, offset: int = 0, codes: int = 512):
        self.offset, self.codebook, self.encoded = offset, torch.zeros(codes, 1), 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return images[:, 0].flatten(1).unsqueeze(2)

    def quantize(self, latents: Tensor) -> Quantized:
        return Quantized(latents, latents[..., 0].long() + self.offset, latents.new_zeros(()))

    def lookup(self, tokens: Tensor) -> Tensor:
        return tokens.unsqueeze(2).float()

    def decode(self, codes: Tensor) -> Tensor:
        raise AssertionError

    def fingerprint(self) -> str:
        return f"reader{self.offset}"


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def mirrored(tokens: Tensor) -> Tensor:
    return tokens.view(-1, 3, 4).flip(2).flatten(1)


def test_it_holds_every_image_and_its_mirror_image(tmp_path):
    pictures = Pictures()
    cache = encode_images(Reader(), pictures, tmp_path, batch_size=3, shard_size=4)
    everything = torch.arange(10)
    plain = torch.arange(120).view(10, 12)
    assert torch.equal(cache.plain(everything), plain)
    assert (len(cache), cache.tokens_per_image, cache.codebook_size) == (10, 12, 512)
    mirror_images = 0
    for seed in range(20):
        tokens, labels = cache.batch(torch.tensor([7, 2, 2]), seeded(seed))
        assert tokens.dtype == torch.int64
        assert labels.tolist() == [1, 0, 0]
        for row, image in zip(tokens, (7, 2, 2), strict=True):
            flipped = torch.equal(row, mirrored(plain[image])[0])
            assert flipped or torch.equal(row, plain[image])
            mirror_images += flipped
    assert 15 < mirror_images < 45  # of 60, 4 standard deviations
    assert torch.equal(cache.batch(everything, seeded(1))[0], cache.batch(everything, seeded(1))[0])


def test_a_set_that_may_not_be_flipped_is_not(tmp_path):
    cache = encode_images(Reader(), Pictures(flip=False), tmp_path)
    everything = torch.arange(10)
    assert torch.equal(cache.batch(everything, seeded(0))[0], cache.plain(everything))


def test_two_bytes_a_token_and_the_size_is_told_before(tmp_path):
    told: list[int] = []
    assert token_type(2**16) == torch.uint16
    assert token_type(2**16 + 1) == torch.int32
    encode_images(Reader(), Pictures(), tmp_path / "small", announce=told.append)
    encode_images(Reader(codes=2**16 + 1), Pictures(), tmp_path / "large", announce=told.append)
    assert told == [10 * (2 * 12 * 2 + 8), 10 * (2 * 12 * 4 + 8)]
    for folder, size in zip(("small", "large"), told, strict=True):
        (shard,) = (tmp_path / folder).glob("*.safetensors")
        assert size < shard.stat().st_size < size + 500
    reader = Reader(offset=2**16 - 120, codes=2**16)  # the largest token there is
    cache = encode_images(reader, Pictures(), tmp_path / "full")
    assert cache.plain(torch.tensor([9]))[0, -1] == 2**16 - 1


class Stopped(BaseException):
    """What ends a process at once; nothing in the code may catch it."""


def test_it_goes_on_where_it_was_stopped(tmp_path):
    heard: list[int] = []

    def stop_after_two_shards(done: int) -> None:
        heard.append(done)
        if done == 8:
            raise Stopped

    with pytest.raises(Stopped):
        encode_images(Reader(), Pictures(), tmp_path, shard_size=4, progress=stop_after_two_shards)
    (tmp_path / "00002-of-00003.safetensors.partial").write_bytes(b"half a shard")
    with pytest.raises(ValueError, match="00002-of-00003.safetensors is missing; run again what made the folder"):
        LatentCache(tmp_path, Reader())
    reader = Reader()
    cache = encode_images(reader, Pictures(), tmp_path, shard_size=4, progress=heard.append)
    assert reader.encoded == 2 * 2  # two images, two views
    assert heard == [4, 8, 8, 10]
    assert torch.equal(cache.plain(torch.arange(10)), torch.arange(120).view(10, 12))


def shorten(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-5])


def flip_a_bit(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)


def empty(shard: Path) -> None:
    shard.write_bytes(b"")


@pytest.mark.parametrize("damage", [shorten, flip_a_bit, empty])
def test_a_damaged_shard_is_noticed_and_made_again(damage, tmp_path):
    encode_images(Reader(), Pictures(), tmp_path, shard_size=4)
    damage(tmp_path / "00001-of-00003.safetensors")
    with pytest.raises(ValueError, match="00001-of-00003.safetensors is damaged .* makes only what is missing"):
        LatentCache(tmp_path, Reader())
    reader = Reader()
    cache = encode_images(reader, Pictures(), tmp_path, shard_size=4)
    assert reader.encoded == 2 * 4
    assert torch.equal(cache.plain(torch.arange(10)), torch.arange(120).view(10, 12))


def test_what_it_was_not_made_for_is_refused(tmp_path):
    encode_images(Reader(), Pictures(), tmp_path)
    with pytest.raises(ValueError, match="made with tokenizer reader0, not reader1; choose another folder, or delete"):
        encode_images(Reader(1), Pictures(), tmp_path)
    with pytest.raises(ValueError, match="holds tokens of tokenizer reader0, not of reader1; encode the images again"):
        LatentCache(tmp_path, Reader(1))
    with pytest.raises(ValueError, match="made with images {'name': 'pictures', .*}, not {'name': 'others', .*}"):
        encode_images(Reader(), Pictures(name="others"), tmp_path)
    with pytest.raises(ValueError, match="made with views 2, not 1"):
        encode_images(Reader(), Pictures(flip=False), tmp_path)
    with pytest.raises(ValueError, match="there is no file .*manifest.json"):
        LatentCache(tmp_path / "nowhere", Reader())
    (tmp_path / MANIFEST).write_text(json.dumps({"kind": "pairs"}))
    with pytest.raises(ValueError, match="holds pairs, not tokens"):
        LatentCache(tmp_path, Reader())
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(ValueError, match="holds a list and is no manifest; make the folder anew"):
        encode_images(Reader(), Pictures(), tmp_path)
