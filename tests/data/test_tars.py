"""Images in tar shards: the same as in a folder, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
import robustok_shards
import torch
from PIL import Image

from robustok.cli import main
from robustok.data import tar_index
from robustok.data.folder import ImageFolder
from robustok.data.tars import TarFiles, TarImages, expanded


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
                tar.addfile(label, io.BytesIO(b"0"))
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


def test_labels_are_found_where_samples_tell_them(tmp_path):
    data = robustok_shards.pictures(4)
    pattern = robustok_shards.write_tars(tmp_path / "full")
    by_field = {labels: TarFiles(pattern, labels=labels) for labels in (None, "cls", "json:label", "json:name", "none")}
    numbers = [robustok_shards.label(i) for i in range(robustok_shards.COUNT)]
    for labels in (None, "cls", "json:label"):
        assert (by_field[labels].labels.tolist(), by_field[labels].classes) == (numbers, ("0", "1", "2"))
    assert by_field["json:name"].classes == robustok_shards.CLASSES
    assert by_field["none"].classes == ("images",)
    folders = robustok_shards.write_tar(
        tmp_path / "f.tar", dict(zip(("b/0.png", "a/1.png", "b/2.png"), data, strict=False))
    )
    assert (TarFiles(folders).classes, TarFiles(folders).labels.tolist()) == (("a", "b"), [1, 0, 1])
    names = ("n02_1.png", "n00000002_1.png", "n00000001_7.png")
    synsets = robustok_shards.write_tar(tmp_path / "s.tar", dict(zip(names[1:], data, strict=False)))
    assert (TarFiles(synsets).classes, TarFiles(synsets).labels.tolist()) == (("n00000001", "n00000002"), [1, 0])
    with pytest.raises(ValueError, match="label 'synset' is missing for 1 of 2 images, first for n02_1.png of t.tar"):
        TarFiles(
            robustok_shards.write_tar(tmp_path / "t.tar", dict(zip(names[:2], data, strict=False))), labels="synset"
        )


def test_labels_that_are_not_there_are_asked_for_by_what_is(tmp_path):
    data = robustok_shards.pictures(2)
    members = {"0.png": data[0], "0.json": b'{"class_name": "cat", "width": 3}', "1.png": data[1], "1.json": b"{}"}
    shard = robustok_shards.write_tar(tmp_path / "a.tar", members)
    assert TarFiles(shard).classes == ("images",)
    with pytest.raises(ValueError, match="'json:class_name' is missing for 1 of 2 images, first for 1.png of a.tar; s"):
        TarFiles(shard, labels="json:class_name")
    with pytest.raises(
        ValueError, match="'cls' is missing .*; samples have json:class_name, json:width: choose labels"
    ):
        TarFiles(shard, labels="cls")
    two = {"0.jpg": data[0], "0.seg.png": data[1], "0.cls": b"1"}
    with pytest.raises(ValueError, match="a sample is one image, but 0 has 0.jpg, 0.seg.png; keep one of them, or"):
        TarFiles(robustok_shards.write_tar(tmp_path / "b.tar", two))


@pytest.mark.parametrize("end", ["in a header", "in an image", "between members"])
def test_a_tar_that_ends_early_is_one_clear_error(end, tmp_path):
    data = robustok_shards.pictures(3)
    whole = robustok_shards.write_tar(tmp_path / "whole.tar", {f"{n}.png": part for n, part in enumerate(data)})
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[2]
    places = {"in a header": last.offset + 100, "in an image": last.offset_data + 100, "between members": last.offset}
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: places[end]])
    with pytest.raises(
        ValueError, match=r"cut.tar (is no whole, uncompressed tar|was cut short at byte \d+).* fetch it"
    ):
        TarImages(tmp_path / "*.tar", 16)


def test_a_damaged_tar_is_not_read_in_part(tmp_path):
    data = robustok_shards.pictures(3)
    path = robustok_shards.write_tar(tmp_path / "a.tar", {f"{n}.png": part for n, part in enumerate(data)})
    with tarfile.open(path) as tar:
        place = tar.getmembers()[1].offset
    whole = bytearray(path.read_bytes())
    whole[place : place + 100] = b"x" * 100
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"a.tar is damaged at byte {place}, after 0.png: a tar ends in zeros; fetch"):
        TarFiles(path)


def test_what_a_tar_without_images_holds_is_told(tmp_path):
    path = robustok_shards.write_tar(tmp_path / "train.tar", {"n01.tar": b"", "n02.tar": b"", "README": b""})
    with pytest.raises(ValueError, match=r"no image found in .*train.tar; wanted .*; found .tar, README"):
        TarFiles(path)


def test_a_shard_that_shrinks_while_it_is_used_is_an_error(tmp_path):
    data = robustok_shards.pictures(2)
    path = robustok_shards.write_tar(tmp_path / "a.tar", {"0.png": data[0], "1.png": data[1]})
    images = TarImages(path, 16)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="a.tar was cut short: 1.png ends beyond it; fetch it again"):
        images.images(torch.tensor([1]))


def test_the_index_is_read_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    read, own = [], tar_index._read
    monkeypatch.setattr(tar_index, "_read", lambda shard, called: read.append(called) or own(shard, called))
    pattern = robustok_shards.write_tars(tmp_path)
    first = TarFiles(pattern)
    again = TarFiles(pattern)
    assert (len(read), again.describe(), again.labels.tolist()) == (5, first.describe(), first.labels.tolist())
    data = robustok_shards.pictures(1)[0]
    robustok_shards.write_tar(tmp_path / "train-001.tar", {"new.png": data, "new.cls": b"2"})
    assert len(TarFiles(pattern)) == 25
    assert len(read) == 6


def test_patterns_are_those_of_a_shell():
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{train,val}/{0..1}.tar") == ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]
    assert expanded("plain.tar") == ["plain.tar"]
