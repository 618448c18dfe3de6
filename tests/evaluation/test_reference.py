import pytest
import torch
from safetensors.torch import save_file

from robustok.evaluation.reference import Reference
from robustok.shapes import to_images


class Noise:
    def __init__(self, count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return to_images(self.pixels[indices])

    def describe(self):
        return {"name": "noise", "count": len(self), "hash": "abc"}


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


def test_refuses_files_that_are_no_reference(tmp_path):
    path = tmp_path / "noise.safetensors"
    with pytest.raises(ValueError, match="noise.safetensors cannot be read .* make the reference again"):
        Reference.load(path)
    Reference.of(Noise(20), colors).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read"):
        Reference.load(path)
    save_file({"mean": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds no reference statistics; give a file that Reference.save wrote"):
        Reference.load(path)


def test_refuses_features_of_another_space():
    reference = Reference.of(Noise(20), colors)
    reference.check_space({"features": "colors"})
    with pytest.raises(ValueError, match="with features 'colors', the images to score with 'lite0'; .* same extractor"):
        reference.check_space({"features": "lite0"})
    with pytest.raises(ValueError, match="resize None, the images to score with 'none'"):
        reference.check_space({"features": "colors", "resize": "none"})
