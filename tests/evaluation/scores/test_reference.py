import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.evaluation.scored import SIDE, Grays, InMemory

from robustok.data.npz import NpzImages
from robustok.data.sources import open_images
from robustok.evaluation.scores.difference import unlike
from robustok.evaluation.scores.image_scores import score_image_set
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer


class Noise(InMemory):
    def __init__(self, count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator))


def colors(pixels):
    return pixels.float().mean(dim=(2, 3))


def test_statistics_and_sample_of_all_images():
    seen = []
    images = Noise(23)
    reference = Reference.of(images, colors, batch_size=10, progress=lambda done, total: seen.append((done, total)))
    features = colors(images.pixels)
    torch.testing.assert_close(reference.stats.mean, features.double().mean(dim=0))
    assert torch.equal(reference.sample, features)
    assert reference.images == images.describe()
    assert reference.space == {"features": "colors"}
    assert seen == [(10, 23), (20, 23), (23, 23)]


def test_comes_back_from_its_file(tmp_path):
    reference = Reference.of(Noise(20), colors)
    reference.save(tmp_path / "noise.safetensors")
    loaded = Reference.load(tmp_path / "noise.safetensors")
    assert torch.equal(loaded.stats.scatter, reference.stats.scatter)
    assert torch.equal(loaded.stats.mean, reference.stats.mean)
    assert torch.equal(loaded.sample, reference.sample)
    assert (loaded.stats.count, loaded.images, loaded.space) == (20, reference.images, reference.space)


@pytest.mark.parametrize("keep", [10, 20])
def test_a_sample_of_every_nth_image_is_left_out(tmp_path, keep):
    """As files of before hold it; where the sample is of all images, nothing is missing."""
    path = tmp_path / "old.safetensors"
    reference = Reference.of(Noise(20), colors, keep=keep)
    reference.save(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert torch.equal(Reference.load(path).sample, reference.sample)
    del about["samples"]
    save_file(load_file(path), path, {"robustok": "reference", "about": json.dumps(about)})
    if keep == 20:
        assert torch.equal(Reference.load(path).sample, reference.sample)
        return
    with pytest.warns(UserWarning, match="sample in .*old.safetensors is of every n-th image, which may miss classes"):
        old = Reference.load(path)
    assert len(old.sample) == 0
    assert torch.equal(old.stats.scatter, reference.stats.scatter)


def test_refuses_files_that_are_no_reference(tmp_path):
    path = tmp_path / "noise.safetensors"
    with pytest.raises(ValueError, match="noise.safetensors cannot be read .* make the reference again"):
        Reference.load(path)
    Reference.of(Noise(20), colors).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged, or was edited: its contents do not fit the hash in it; give"):
        Reference.load(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="cannot be read"):
        Reference.load(path)
    save_file({"mean": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds no reference statistics; give a file that Reference.save wrote"):
        Reference.load(path)


@pytest.mark.parametrize(
    ("tensors", "about", "why"),
    [
        ({"mean": torch.full((3,), float("nan"))}, {}, "the statistics hold NaN"),  # which scored 0 once
        ({"scatter": torch.ones(2, 3)}, {}, r"a mean of shape \(3,\) and a covariance of shape \(2, 3\)"),
        ({"scatter": torch.arange(9.0).view(3, 3)}, {}, "is not symmetric"),
        ({"sample": torch.ones(20, 2)}, {}, r"a sample of shape \(20, 2\)"),
        ({"sample": torch.full((20, 3), float("nan"))}, {}, "are not its own"),
        ({"sample": None}, {}, "'sample'"),
        ({}, {"count": "20"}, "integer"),
        ({}, {"count": -3}, "a count of -3"),
        ({}, {"space": None}, "NoneType"),
    ],
)
def test_refuses_a_reference_that_was_edited(tmp_path, tensors, about, why):
    path = tmp_path / "noise.safetensors"
    Reference.of(Noise(20), colors).save(path)
    with safe_open(path, framework="pt") as file:
        known = json.loads(file.metadata()["about"]) | about
    held = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    save_file(held, path, {"robustok": "reference", "about": json.dumps(known)})
    with pytest.raises(ValueError, match=f"noise.safetensors is no whole reference .*{why}.* make the reference again"):
        Reference.load(path)


def test_refuses_features_of_another_space():
    reference = Reference.of(Noise(20), colors)
    reference.check_space({"features": "colors"})
    with pytest.raises(ValueError, match="with features 'colors', the images to score with 'lite0'; .* same extractor"):
        reference.check_space({"features": "lite0"})
    with pytest.raises(ValueError, match="resize None, the images to score with 'none'"):
        reference.check_space({"features": "colors", "resize": "none"})


class Scaled(Noise):
    """Pixels as floats that are handed over, scaled to another range than [-1, 1]."""

    def __init__(self, count: int, to: tuple[float, float] = (0.0, 1.0)):
        super().__init__(count)
        self.to = to

    def images(self, indices):
        low, high = self.to
        return self.pixels[indices] / 255 * (high - low) + low


@pytest.mark.parametrize("space", ["lite2", "vgg-hed"])
def test_two_sides_are_not_compared_in_silence(tmp_path, space):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    small, large = (ArrayImages(pixels[:, :side, :side]) for side in (72, 96))
    Reference.of(small, space).save(tmp_path / "small.safetensors")
    reference = Reference.load(tmp_path / "small.safetensors")
    assert reference.space["side"] == "72"
    scores = score_image_set(small, reference, space)
    assert scores[0].protocol["side"] == "72"
    with pytest.raises(ValueError, match=f"{space} looks at images at their own size: .* 72 pixels, .* at 96; give"):
        score_image_set(large, reference, space)
    other = score_image_set(large, Reference.of(large, space), space)
    assert "side '72' once and '96' the other time" in [str(entry) for entry in unlike(scores[0], other[0])]


class ArrayImages(InMemory):
    known_range = True

    def __init__(self, pixels):
        super().__init__(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def describe(self):
        return {"name": "array"}


def test_arrays_from_0_to_1_are_refused_and_told_what_to_do():
    with pytest.raises(ValueError, match=r"as if 0 were black; scale them to \[-1, 1\]: 2 \* images - 1; or"):
        Reference.of(Scaled(40), colors)


@pytest.mark.parametrize("said", [True, False])
def test_bright_arrays_are_scored_where_their_range_is_known(said):
    images = Scaled(40, to=(0.2, 1.0))
    images.known_range = said
    if said:
        assert Reference.of(images, colors).stats.count == 40
    else:
        with pytest.raises(ValueError, match="where they are that bright, give the set an attribute known_range"):
            Reference.of(images, colors)


def bright(folder, kind):
    """40 images whose every pixel is 150 to 249, as files of a kind."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(150, 250, (40, SIDE, SIDE, 3), dtype=np.uint8)
    if kind == "npz":
        np.savez(folder / "bright.npz", pixels)
        return NpzImages(folder / "bright.npz")
    (folder / "cells").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "cells" / f"{number}.png")
    images = open_images(folder, SIDE)
    return images.subset(torch.arange(39, -1, -1)) if kind == "subset" else images


@pytest.mark.parametrize("kind", ["npz", "folder", "subset"])
def test_the_bytes_of_bright_files_are_never_taken_for_another_range(tmp_path, kind):
    images = bright(tmp_path / kind, kind)
    reference = Reference.of(images, colors)
    assert reference.stats.count == 40
    assert reference.stats.mean.min() > 180
    (score,) = (s for s in score_image_set(images, reference, colors) if s.metric == "fid")
    assert score.value == pytest.approx(0, abs=1e-6)
    scored = score_tokenizer(Grays(), images, colors)
    assert {"rfid", "pfid", "psnr"} <= {s.metric for s in scored}
