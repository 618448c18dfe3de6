"""Image files as a set: what becomes of broken ones, large ones and threads, whatever they come from."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import some_shards

from robustok.data import ImageFolder, open_images
from robustok.data.decoding import center_crop, read
from robustok.data.image_files import ImageFiles
from robustok.data.images import DRAWS
from robustok.data.tars import TarFiles
from robustok.runtime.threads import cores
from robustok.shapes import to_pixels

EVERYTHING = torch.arange(some_shards.COUNT)


@pytest.fixture
def damaged(tmp_path):
    """The folder of three classes with two broken images of the first one, one after the other."""
    folder = some_shards.write_folder(tmp_path / "folder")
    for number in (3, 4):
        path = folder / "cat" / f"{number:02d}.png"
        path.write_bytes(path.read_bytes()[:300])
    return folder


def test_a_broken_image_is_replaced_by_the_next_of_its_class(damaged):
    images = ImageFolder(damaged, 16, errors="replace", workers=4)
    with pytest.warns(UserWarning, match="0[34].png in .* cannot be read .*; the next image of its class replaces it"):
        batch = images.images(EVERYTHING)
    assert torch.equal(batch[3], batch[5])
    assert torch.equal(batch[4], batch[5])
    assert {index: broken.name for index, broken in images.replaced.items()} == {3: "cat/03.png", 4: "cat/04.png"}
    again = ImageFolder(damaged, 16, errors="replace", workers=1)
    draws = torch.rand(2, DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="replaces it, as for others to come"):
        view = again.training_images(torch.tensor([4, 20]), draws)
    assert torch.equal(view, images.training_images(torch.tensor([4, 20]), draws))
    assert list(again.replaced) == [4]


def test_the_last_of_a_class_is_replaced_by_the_first_and_none_by_none(damaged):
    cats = damaged / "cat"
    (cats / "09.png").write_bytes(b"")
    images = ImageFolder(damaged, 16, errors="replace")
    with pytest.warns(UserWarning, match="09.png"):
        batch = images.images(torch.tensor([9, 0]))
    assert torch.equal(batch[0], batch[1])
    for path in cats.iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="replaces it"),
        pytest.raises(ValueError, match="no image of class cat in .* can be read; repair some, or remove it"),
    ):
        ImageFolder(damaged, 16, errors="replace").images(torch.tensor([2]))


def test_a_broken_image_of_a_shard_is_named_with_its_shard(tmp_path):
    data = some_shards.pictures(3)
    some_shards.write_tar(tmp_path / "a.tar", {"0.png": data[0], "1.png": data[1][:300], "2.png": data[2]})
    images = open_images(tmp_path / "a.tar", 16)
    with pytest.raises(
        ValueError, match="1.png of a.tar in .* cannot be read .*; repair or remove it, or pass errors="
    ):
        images.images(torch.arange(3))
    with pytest.warns(UserWarning, match="1 of 3 images in .*a.tar cannot be read: 1.png of a.tar .* skipped"):
        skipped = open_images(tmp_path / "a.tar", 16, errors="skip")
    assert torch.equal(skipped.images(torch.tensor([1])), images.images(torch.tensor([2])))
    assert skipped.describe()["count"] == 2
    assert skipped.describe()["hash"] != images.describe()["hash"]


def test_a_shard_that_was_cut_short_is_no_broken_image(tmp_path):
    """Cut after it was opened: its images are not left out in silence, one by one."""
    data = some_shards.pictures(2)
    path = some_shards.write_tar(tmp_path / "a.tar", {"0.png": data[0], "1.png": data[1]})
    files = TarFiles(path)
    os.truncate(path, 2000)
    with pytest.raises(ValueError, match=r"a.tar was cut short: [01].png ends beyond it; fetch it again"):
        ImageFiles(files, 16, errors="skip")


def test_large_jpegs_are_decoded_at_a_fraction_on_request(tmp_path):
    """Halving twice, as ADM's box filter would, so the picture is nearly the same; small ones are the same."""
    y, x = np.mgrid[0:300, 0:400] / 40
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x)], axis=-1)
    for name, side in (("large", 4), ("small", 1)):
        size = (100 * side, 75 * side)
        image = Image.fromarray(((waves + 1) * 127).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{name}.jpg", quality=95)
    plain, draft = (to_pixels(ImageFolder(tmp_path, 64, draft=d).images(torch.arange(2))) for d in (False, True))
    assert torch.equal(plain[1], draft[1])
    assert not torch.equal(plain[0], draft[0])
    assert (plain[0].float() - draft[0].float()).square().mean().sqrt() < 2  # of 255 levels: 42 dB
    data = io.BytesIO((tmp_path / "large.jpg").read_bytes())
    assert read(data, enough=64).size == (100, 75)
    assert "fraction" in ImageFolder(tmp_path, 64, draft=True).describe()["view"]


def test_every_image_of_a_batch_is_its_own_crop(tmp_path):
    folder = some_shards.write_folder(tmp_path / "folder")
    batch = to_pixels(ImageFolder(folder, 16, workers=3).images(EVERYTHING))
    for number, data in enumerate(some_shards.pictures()):
        assert np.array_equal(batch[number].permute(1, 2, 0).numpy(), center_crop(read(io.BytesIO(data)), 16))


def test_threads_are_the_cores_of_this_process_shared_with_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cores() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores() == 1
    with pytest.raises(ValueError, match="workers is 0; ask for 1 thread or more"):
        ImageFolder(some_shards.write_folder(tmp_path), 16, workers=0)
