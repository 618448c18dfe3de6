"""Images in tar shards: the same as in a folder, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.cli import main
from robustok.data.folder import ImageFolder
from robustok.data.tars import TarImages


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures in a folder, and the same in two shards with labels beside them."""
    noise = np.random.default_rng(0).integers(0, 255, (7, 40, 36, 3), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / "folder" / f"{number}.png")
    for shard, numbers in enumerate((range(4), range(4, 7))):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for number in numbers:
                tar.add(tmp_path / "folder" / f"{number}.png", f"{number}.png")
                label = tarfile.TarInfo(f"{number}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(b"3"))
    return tmp_path


def test_shards_hold_the_images_of_the_folder(pictures):
    shards, folder = TarImages(pictures / "shard-*.tar", 32), ImageFolder(pictures / "folder", 32)
    assert len(shards) == 7
    assert torch.equal(shards.images(torch.arange(7)), folder.images(torch.arange(7)))
    assert torch.equal(shards.images(torch.tensor([6, 0])), folder.images(torch.tensor([6, 0])))
    assert shards.side == 36
    about = shards.describe()
    assert (about["name"], about["count"]) == ("2 shards, shard-0.tar ...", 7)
    assert about["hash"] == TarImages(str(pictures / "shard-*.tar"), 24).describe()["hash"]
    assert about["hash"] != TarImages(pictures / "shard-0.tar", 32).describe()["hash"]


def test_the_command_line_scores_shards(pictures, capsys):
    out = pictures / "real.safetensors"
    assert (
        main(["reference", "--images", str(pictures / "shard-*.tar"), "--size", "32", "--out", str(out), "--quiet"])
        == 0
    )
    words = ["evaluate", "--generated", str(pictures / "folder"), "--reference", str(out), "--size", "32", "--json"]
    assert main([*words, "--quiet"]) == 0
    assert '"metric": "fid"' in capsys.readouterr().out


def test_what_cannot_be_read_is_refused(pictures):
    with pytest.raises(ValueError, match="there is no file .*; give a tar file, or a pattern such as"):
        TarImages(pictures / "none.tar", 32)
    with pytest.raises(ValueError, match="crop of 64 pixels: 0.png of shard-0.tar .36 x 40.; .*pass upscale=True"):
        TarImages(pictures / "shard-0.tar", 64).images(torch.tensor([0]))
    assert TarImages(pictures / "shard-0.tar", 64, upscale=True).images(torch.tensor([0])).shape == (1, 3, 64, 64)
    whole = (pictures / "shard-0.tar").read_bytes()
    (pictures / "cut.tar").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"cut.tar (was cut short|is no whole, uncompressed tar)"):
        TarImages(pictures / "cut.tar", 32)
    (pictures / "text.tar").write_text("no tar at all")
    with pytest.raises(ValueError, match="text.tar is no whole, uncompressed tar"):
        TarImages(pictures / "text.tar", 32)
    with tarfile.open(pictures / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"no image found in .*empty.tar; wanted members that end in .png"):
        TarImages(pictures / "empty.tar", 32)
