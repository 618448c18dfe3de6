"""Images in tar shards: the same as in a folder, and what is refused."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import some_shards

from robustok.cli import main
from robustok.data import ImageFolder, open_images, tars
from robustok.data.file_names import expanded
from robustok.data.tars import TarFiles


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
    shards, folder = open_images(pictures / "shard-*.tar", 32), ImageFolder(pictures / "folder", 32)
    assert len(shards) == 7
    assert torch.equal(shards.images(torch.arange(7)), folder.images(torch.arange(7)))
    assert torch.equal(shards.images(torch.tensor([6, 0])), folder.images(torch.tensor([6, 0])))
    assert shards.side == 36
    about = shards.describe()
    assert (about["name"], about["count"]) == ("2 shards, shard-0.tar ...", 7)
    assert about["hash"] == open_images(str(pictures / "shard-*.tar"), 24).describe()["hash"]
    assert about["hash"] != open_images(pictures / "shard-0.tar", 32).describe()["hash"]


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
        open_images(pictures / "none.tar", 32)
    with pytest.raises(ValueError, match="crop of 64 pixels: 0.png of shard-0.tar .36 x 40.; .*pass upscale=True"):
        open_images(pictures / "shard-0.tar", 64).images(torch.tensor([0]))
    assert open_images(pictures / "shard-0.tar", 64, upscale=True).images(torch.tensor([0])).shape == (1, 3, 64, 64)
    whole = (pictures / "shard-0.tar").read_bytes()
    (pictures / "cut.tar").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"cut.tar (was cut short|is no whole, uncompressed tar)"):
        open_images(pictures / "cut.tar", 32)
    (pictures / "text.tar").write_text("no tar at all")
    with pytest.raises(ValueError, match="text.tar is no whole, uncompressed tar"):
        open_images(pictures / "text.tar", 32)
    with tarfile.open(pictures / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"no image found in .*empty.tar; wanted members that end in .png"):
        open_images(pictures / "empty.tar", 32)


def test_labels_are_found_where_samples_tell_them(tmp_path):
    data = some_shards.pictures(4)
    pattern = some_shards.write_tars(tmp_path / "full")
    by_field = {labels: TarFiles(pattern, labels=labels) for labels in (None, "cls", "json:label", "json:name", "none")}
    numbers = [some_shards.label(i) for i in range(some_shards.COUNT)]
    for labels in (None, "cls", "json:label"):
        assert (by_field[labels].labels.tolist(), by_field[labels].classes) == (numbers, ("0", "1", "2"))
    assert by_field["json:name"].classes == some_shards.CLASSES
    assert by_field["none"].classes == ("images",)
    folders = some_shards.write_tar(
        tmp_path / "f.tar", dict(zip(("b/0.png", "a/1.png", "b/2.png"), data, strict=False))
    )
    assert (TarFiles(folders).classes, TarFiles(folders).labels.tolist()) == (("a", "b"), [1, 0, 1])
    names = ("n02_1.png", "n00000002_1.png", "n00000001_7.png")
    synsets = some_shards.write_tar(tmp_path / "s.tar", dict(zip(names[1:], data, strict=False)))
    assert (TarFiles(synsets).classes, TarFiles(synsets).labels.tolist()) == (("n00000001", "n00000002"), [1, 0])
    with pytest.raises(ValueError, match="label 'synset' is missing for 1 of 2 images, first for n02_1.png of t.tar"):
        TarFiles(some_shards.write_tar(tmp_path / "t.tar", dict(zip(names[:2], data, strict=False))), labels="synset")


def test_labels_that_are_not_there_are_asked_for_by_what_is(tmp_path):
    data = some_shards.pictures(2)
    members = {"0.png": data[0], "0.json": b'{"class_name": "cat", "width": 3}', "1.png": data[1], "1.json": b"{}"}
    shard = some_shards.write_tar(tmp_path / "a.tar", members)
    assert TarFiles(shard).classes == ("images",)
    with pytest.raises(ValueError, match="'json:class_name' is missing for 1 of 2 images, first for 1.png of a.tar; s"):
        TarFiles(shard, labels="json:class_name")
    with pytest.raises(
        ValueError, match="'cls' is missing .*; samples have json:class_name, json:width: choose labels"
    ):
        TarFiles(shard, labels="cls")
    two = {"0.jpg": data[0], "0.seg.png": data[1], "0.cls": b"1"}
    with pytest.raises(ValueError, match="a sample is one image, but 0 has 0.jpg, 0.seg.png; keep one of them, or"):
        TarFiles(some_shards.write_tar(tmp_path / "b.tar", two))


@pytest.mark.parametrize("end", ["in a header", "in an image", "between members"])
def test_a_tar_that_ends_early_is_one_clear_error(end, tmp_path):
    data = some_shards.pictures(3)
    whole = some_shards.write_tar(tmp_path / "whole.tar", {f"{n}.png": part for n, part in enumerate(data)})
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[2]
    places = {"in a header": last.offset + 100, "in an image": last.offset_data + 100, "between members": last.offset}
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: places[end]])
    with pytest.raises(
        ValueError, match=r"cut.tar (is no whole, uncompressed tar|was cut short at byte \d+).* fetch it"
    ):
        open_images(tmp_path / "*.tar", 16)


def test_a_damaged_tar_is_not_read_in_part(tmp_path):
    data = some_shards.pictures(3)
    path = some_shards.write_tar(tmp_path / "a.tar", {f"{n}.png": part for n, part in enumerate(data)})
    with tarfile.open(path) as tar:
        place = tar.getmembers()[1].offset
    whole = bytearray(path.read_bytes())
    whole[place : place + 100] = b"x" * 100
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"a.tar is damaged at byte {place}, after 0.png: a tar ends in zeros; fetch"):
        TarFiles(path)


def test_what_a_tar_without_images_holds_is_told(tmp_path):
    path = some_shards.write_tar(tmp_path / "train.tar", {"n01.tar": b"", "n02.tar": b"", "README": b""})
    with pytest.raises(ValueError, match=r"no image found in .*train.tar; wanted .*; found .tar, README"):
        TarFiles(path)


def test_a_shard_that_shrinks_while_it_is_used_is_an_error(tmp_path):
    data = some_shards.pictures(2)
    path = some_shards.write_tar(tmp_path / "a.tar", {"0.png": data[0], "1.png": data[1]})
    images = open_images(path, 16)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="a.tar was cut short: 1.png ends beyond it; fetch it again"):
        images.images(torch.tensor([1]))


def test_the_index_is_read_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    read, own = [], tars._read
    monkeypatch.setattr(tars, "_read", lambda shard, called: read.append(called) or own(shard, called))
    pattern = some_shards.write_tars(tmp_path)
    first = TarFiles(pattern)
    again = TarFiles(pattern)
    assert (len(read), again.describe(), again.labels.tolist()) == (5, first.describe(), first.labels.tolist())
    data = some_shards.pictures(1)[0]
    some_shards.write_tar(tmp_path / "train-001.tar", {"new.png": data, "new.cls": b"2"})
    assert len(TarFiles(pattern)) == 25
    assert len(read) == 6


def test_patterns_are_those_of_a_shell():
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{train,val}/{0..1}.tar") == ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]
    assert expanded("plain.tar") == ["plain.tar"]


def test_numbers_in_samples_are_labels_however_they_are_written(tmp_path):
    data = some_shards.pictures(3)

    def read(told, suffix, labels=None):
        members = {}
        for number, (image, value) in enumerate(zip(data, told, strict=True)):
            members |= {f"{number}.png": image, f"{number}{suffix}": value}
        return TarFiles(some_shards.write_tar(tmp_path / "a.tar", members), labels=labels)

    assert read((b"1\n", b"0", b"2 "), ".cls").labels.tolist() == [1, 0, 2]
    assert read([json.dumps({"label": value}).encode() for value in (1.0, 0, "2")], ".json").labels.tolist() == [
        1,
        0,
        2,
    ]
    with pytest.warns(UserWarning, match="'cls' in .*a.tar are 3 different numbers up to 20240103: each is a class"):
        files = read((b"20240103", b"20240101", b"20240102"), ".cls")
    assert (files.classes, files.labels.tolist()) == (("20240101", "20240102", "20240103"), [2, 0, 1])
    with pytest.warns(UserWarning, match="'json:id' in .*a.tar are 3 different numbers up to"):
        files = read([json.dumps({"id": 2**value}).encode() for value in (70, 64, 3)], ".json", "json:id")
    assert files.labels.tolist() == [2, 1, 0]
    for missing in (b"-1", b" "):
        with pytest.raises(ValueError, match="the label 'cls' is missing for 1 of 3 images, first for 1.png of a.tar"):
            read((b"0", missing, b"1"), ".cls")
    with pytest.raises(ValueError, match="'json:label' in .*a.tar holds the fraction 0.5; wanted a class"):
        read([json.dumps({"label": value}).encode() for value in (0.5, 1, 2)], ".json")


def test_the_folder_an_image_lies_in_tells_its_class_on_request(tmp_path):
    members = dict(zip(("a/x/0.png", "b/y/1.png", "b/x/2.png"), some_shards.pictures(3), strict=True))
    shard = some_shards.write_tar(tmp_path / "a.tar", members)
    assert TarFiles(shard, labels="folder").classes == ("x", "y")
    assert TarFiles(shard).classes == ("a", "b")


def test_a_class_may_be_filled_in_another_shard(tmp_path):
    data = some_shards.pictures(2)
    for number, (full, empty) in enumerate((("cat", "dog"), ("dog", "cat"))):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            folder = tarfile.TarInfo(empty)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            entry = tarfile.TarInfo(f"{full}/{number}.png")
            entry.size = len(data[number])
            tar.addfile(entry, io.BytesIO(data[number]))
    files = TarFiles(tmp_path / "*.tar")
    assert (files.classes, files.labels.tolist()) == (("cat", "dog"), [0, 1])
    with pytest.raises(ValueError, match=r"no image that can be read in .*0.tar for class dog; add images, or"):
        TarFiles(tmp_path / "0.tar")
