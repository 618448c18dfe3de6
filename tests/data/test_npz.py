import numpy as np
import pytest
import torch
from PIL import Image

from robustok.data import ImageFolder
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


@pytest.mark.parametrize("shape", [(8, 13), (13, 8)])
def test_images_that_are_not_square_are_cropped_as_files_are(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "folder" / f"{number}.png")
    np.savez(tmp_path / "same.npz", pixels)
    images, files = NpzImages(tmp_path / "same.npz"), ImageFolder(tmp_path / "folder", 8)
    assert torch.equal(images.images(torch.arange(3)), files.images(torch.arange(3)))
    assert images.describe()["view"] == "center crop to 8"


@pytest.mark.parametrize("other", [np.eye(6), np.array(["cat"] * 6), np.arange(7), np.linspace(0, 1, 6)])
def test_an_arr_1_that_holds_no_labels_does_no_harm(tmp_path, pixels, other):
    np.savez(tmp_path / "samples.npz", pixels, other)
    assert NpzImages(tmp_path / "samples.npz").labels.tolist() == [0] * 6


def test_a_damaged_file_is_one_clear_error(tmp_path, pixels):
    path = tmp_path / "samples.npz"
    np.savez(path, pixels)
    whole = path.read_bytes()
    shape = whole.index(b"(6, 8, 10, 3)")
    header = whole.index(b"PK\1\2")
    damages = {
        "no tuple": whole[:shape] + b"(6, 8, 10, 3}" + whole[shape + 13 :],
        "more than there is": whole[:shape] + b"(9, 8, 10, 3)" + whole[shape + 13 :],
        "another version of zip": whole[: header + 6] + b"\xff" + whole[header + 7 :],
        "cut": whole[:-30],
    }
    for damaged in damages.values():
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match="samples.npz cannot be read as an npz file .*; give a whole file of numbers"
        ):
            NpzImages(path)
