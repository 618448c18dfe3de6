"""Caches of ten crops: the views that LlamaGen encodes, their size, and what they are not for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.data import FashionMNIST, ImageFolder
from robustok.data.decoding import center_crop, five_crops, read
from robustok.data.latent_cache import ZOOM, encode_images, views_of
from robustok.shapes import to_images
from robustok.tokenizer.quantizer import Quantized

SIZE = 20


class Corners:
    """A tokenizer whose 4 tokens are the red of an image's corners."""

    image_size, tokens_per_image, codebook = SIZE, 4, torch.zeros(256, 1)
    device = torch.device("cpu")

    def encode(self, images):
        corners = images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        return ((corners + 1) * 127.5).unsqueeze(2)

    def quantize(self, latents):
        return Quantized(latents, latents[..., 0].round().long(), latents.new_zeros(()))

    def lookup(self, tokens):
        raise AssertionError

    def decode(self, codes):
        raise AssertionError

    def fingerprint(self):
        return "corners"


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 44, 52, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_five_crops_are_corners_and_middle_of_a_larger_crop():
    noise = np.random.default_rng(0).integers(0, 256, (44, 52, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    square = center_crop(image, 22)
    crops = five_crops(image, SIZE, ZOOM)
    expected = (square[:20, :20], square[:20, 2:], square[2:, :20], square[2:, 2:], square[1:21, 1:21])
    assert all(np.array_equal(crop, part) for crop, part in zip(crops, expected, strict=True))


def test_ten_views_are_cached_and_drawn_by_number(folder, tmp_path):
    images = ImageFolder(folder, SIZE)
    cache = encode_images(Corners(), images, tmp_path / "cache", crops=5, shard_size=4, batch_size=3)
    assert (len(cache), cache.views, cache.tokens_per_image) == (6, 10, 4)
    picture = read(io.BytesIO((folder / "5.png").read_bytes()))
    for number, crop in enumerate(five_crops(picture, SIZE, ZOOM)):
        corners = crop[[0, 0, -1, -1], [0, -1, 0, -1], 0].tolist()
        mirrored = [corners[1], corners[0], corners[3], corners[2]]
        for view, expected in ((2 * number, corners), (2 * number + 1, mirrored)):
            tokens, labels = cache.at(torch.tensor([5]), torch.tensor([view]))
            assert (tokens[0].tolist(), labels.tolist()) == (expected, [0])
    with pytest.raises(ValueError, match="holds tokens of 5 crops of each image, none of which is the image as it is"):
        cache.plain(torch.tensor([0]))
    with pytest.raises(ValueError, match="was made with views 10, not 2; choose another folder, or delete this one"):
        encode_images(Corners(), images, tmp_path / "cache")


@pytest.mark.parametrize("errors", ["skip", "defer", "replace"])
def test_images_too_small_for_the_larger_crop_are_enlarged_on_request_only(folder, errors):
    """Images of 44 pixels at a crop of 42, whose five crops are of 46."""
    indices = torch.tensor([0])
    with pytest.raises(ValueError, match=r"smaller than the crop of 46 pixels: 0.png \(52 x 44\); .* upscale=True"):
        ImageFolder(folder, 42, errors=errors).five_crops(indices, ZOOM)
    assert ImageFolder(folder, 42, errors=errors, upscale=True).five_crops(indices, ZOOM).shape == (1, 5, 3, 42, 42)


def test_imagenet_in_ten_crops_takes_6_6_gb(tmp_path, monkeypatch):
    """1,281,167 images x 256 tokens x 10 views x 2 bytes, and a label each: told before anything is written."""
    told = []

    class ImageNet(FashionMNIST):
        flip = True

        def __len__(self):
            return 1_281_167

    class Tokenizer(Corners):
        tokens_per_image, codebook = 256, torch.zeros(4096, 1)

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustok.data.latent_cache.write_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_images(Tokenizer(), ImageNet("validation"), tmp_path, crops=5, announce=told.append)
    assert told == [1_281_167 * (256 * 10 * 2 + 8)]
    assert f"{told[0] / 1e9:.2g} GB" == "6.6 GB"
    assert f"{1_281_167 * 256 * 10 * 2 / 1e9:.2g} GB" == "6.6 GB"


@pytest.mark.usefixtures("unchecked")
def test_latents_know_their_size_and_their_crops(folder, tmp_path):
    class Reds(Corners):
        codebook = None

    told = []
    images = ImageFolder(folder, SIZE, flip=False)
    cache = encode_images(Reds(), images, tmp_path / "cache", crops=5, announce=told.append)
    assert (cache.views, cache.latent_shape, told) == (5, (4, 1), [6 * (5 * 4 * 2 + 8)])
    with pytest.raises(ValueError, match="holds latents of 5 crops"):
        cache.plain(torch.tensor([0]))


@pytest.mark.usefixtures("unchecked")
def test_what_has_no_crops_says_so(tmp_path):
    with pytest.raises(ValueError, match="crops is 3; choose 1, the image as it is, or 5"):
        views_of(FashionMNIST("validation"), 3)
    small = FashionMNIST("validation").subset(torch.arange(4))
    with pytest.raises(ValueError, match="the images of fashion-mnist are not larger than 32 pixels; encode them with"):
        encode_images(Corners(), small, tmp_path, crops=5)


def test_to_images_is_what_batches_are_made_by(folder):
    images = ImageFolder(folder, SIZE)
    picture = read(io.BytesIO((folder / "0.png").read_bytes()))
    square = torch.from_numpy(center_crop(picture, SIZE)).permute(2, 0, 1)
    assert torch.equal(images.images(torch.tensor([0]))[0], to_images(square.unsqueeze(0))[0])
