import numpy as np
import pytest
import torch

from robustok.data.npz import NpzImages
from robustok.shapes import to_pixels


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def test_images_by_index(tmp_path, pixels):
    np.savez(tmp_path / "samples.npz", pixels, np.arange(6))
    images = NpzImages(tmp_path / "samples.npz")
    assert len(images) == 6
    assert images.size == 8
    assert images.labels.tolist() == list(range(6))
    some = to_pixels(images.images(torch.tensor([4, 1])))
    assert torch.equal(some, torch.from_numpy(pixels[[4, 1], :, 1:9]).permute(0, 3, 1, 2))  # 8 of 10 columns
    about = images.describe()
    assert (about["name"], about["count"], len(about["hash"])) == ("samples.npz", 6, 16)
    np.savez(tmp_path / "others.npz", pixels + 1)
    others = NpzImages(tmp_path / "others.npz")
    assert others.describe()["hash"] != about["hash"]
    assert others.labels.tolist() == [0] * 6


def test_refuses_what_are_no_images(tmp_path, pixels):
    path = tmp_path / "samples.npz"
    for wrong, what in ((pixels / np.float32(255), "float32"), (pixels.transpose(0, 3, 1, 2), r"\(6, 3, 8, 10\)")):
        np.savez(path, wrong)
        with pytest.raises(ValueError, match=f"arr_0 in .*{what}.*images are uint8 from 0 to 255"):
            NpzImages(path)
    np.savez(path, pixels[:0])
    with pytest.raises(ValueError, match="there is no image; give at least two"):
        NpzImages(path)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(ValueError, match="no array arr_0, only mu"):
        NpzImages(path)
