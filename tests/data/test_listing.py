"""Listings of folders: remembered while nothing changes, ImageNet's validation labels, folders of splits."""

import os

import pytest
import robustok_shards
import torch

from robustok.data import ImageFolder, listing
from robustok.data.folder import FolderFiles


@pytest.fixture
def folder(tmp_path):
    return robustok_shards.write_folder(tmp_path / "folder")


@pytest.fixture
def remembering(monkeypatch, tmp_path):
    """Every listing is kept, and changes count at once; `listed()` tells how often a folder was listed."""
    monkeypatch.setenv("ROBUSTOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "REMEMBERED", 1)
    monkeypatch.setattr(listing, "SETTLED", 0)
    calls, own = [], listing._list
    monkeypatch.setattr(listing, "_list", lambda path: calls.append(path) or own(path))
    return lambda: len(calls)


def test_a_listing_holds_until_a_folder_changes(folder, remembering):
    first = FolderFiles(folder)
    assert (remembering(), FolderFiles(folder).describe(), remembering()) == (1, first.describe(), 1)
    (folder / "cat" / "new.png").write_bytes(robustok_shards.pictures(1)[0])
    assert len(FolderFiles(folder)) == len(first) + 1
    assert remembering() == 2
    (folder / "dog" / "sub").mkdir()
    (folder / "dog" / "sub" / "10.png").write_bytes(robustok_shards.pictures(1)[0])
    assert len(FolderFiles(folder)) == len(first) + 2
    assert remembering() == 3


def test_files_that_were_written_anew_in_place_are_noticed(folder, remembering):
    before = FolderFiles(folder).describe()["hash"]
    with (folder / "cat" / "00.png").open("ab") as file:
        file.write(b"more")
    assert FolderFiles(folder).describe()["hash"] != before
    assert remembering() == 2


def test_a_damaged_or_hidden_cache_costs_time_only(folder, remembering, tmp_path, monkeypatch):
    FolderFiles(folder)
    (kept,) = (tmp_path / "cache" / "listings").glob("*.json")
    kept.write_text("{")
    assert len(FolderFiles(folder)) == robustok_shards.COUNT
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ROBUSTOK_DATA", str(tmp_path / "file"))
    assert len(FolderFiles(folder)) == robustok_shards.COUNT
    assert remembering() == 3


def test_a_folder_that_just_changed_is_not_remembered(folder, remembering, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED", 10**12)
    FolderFiles(folder)
    assert not (tmp_path / "cache").exists()


def test_splits_are_no_classes(tmp_path):
    for split in ("train", "val"):
        robustok_shards.write_folder(tmp_path / "imagenet" / split)
    with pytest.raises(
        ValueError, match="imagenet holds the splits train, val, not classes; give one of them: .*train"
    ):
        FolderFiles(tmp_path / "imagenet")


SYNSETS = ("n02", "n01", "n02", "n03")


@pytest.fixture
def validation(tmp_path):
    """A flat folder as ImageNet's validation images."""
    for number, data in enumerate(robustok_shards.pictures(4)):
        path = tmp_path / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "val"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(
                f"ILSVRC2012_val_{number:08d},{SYNSETS[number - 1]} 1 2 3 4 n05 5 6 7 8 \n" for number in (3, 1, 4, 2)
            ),
        ),
        ("val.txt", "".join(f"ILSVRC2012_val_{n + 1:08d}.JPEG {synset}\n" for n, synset in enumerate(SYNSETS))),
        ("imagenet_2012_validation_synset_labels.txt", "\n".join(SYNSETS) + "\n"),
    ],
)
def test_a_file_tells_the_classes_of_imagenets_validation_images(name, text, validation):
    (validation.parent / name).write_text(text)
    images = ImageFolder(validation, 16, labels=validation.parent / name)
    assert images.classes == ("n01", "n02", "n03")
    assert images.labels.tolist() == [1, 0, 1, 2]
    assert ImageFolder(validation, 16).labels.tolist() == [0] * 4


def test_a_file_of_classes_that_does_not_fit_says_how(validation, folder):
    told = validation.parent / "told.txt"
    told.write_text("n01\nn02\n")
    with pytest.raises(ValueError, match="told.txt has 2 lines of a class each, but there are 4 images in"):
        FolderFiles(validation, told)
    told.write_text("ILSVRC2012_val_00000002.JPEG 7\n")
    with pytest.raises(ValueError, match="tells no class of 3 of 4 images in .*00000001.JPEG, .*00000003.JPEG"):
        FolderFiles(validation, told)
    told.write_text("".join(f"ILSVRC2012_val_{n:08d}.JPEG {n}\n" for n in range(1, 5)))
    with pytest.warns(UserWarning, match="labels of .*told.txt go up to 4, but no image has 0: these are classes with"):
        assert FolderFiles(validation, told).labels.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="the classes of .* are its sub-folders cat, dog, emu; leave .*told.txt out"):
        FolderFiles(folder, told)
    with pytest.raises(ValueError, match="there is no file .*nowhere.csv; give the file that tells the class"):
        FolderFiles(validation, validation.parent / "nowhere.csv")


def test_a_link_to_nowhere_is_a_broken_image(folder):
    os.symlink(folder / "nowhere.png", folder / "cat" / "link.png")
    with pytest.raises(ValueError, match="cat/link.png in .* cannot be read .No such file or directory.; repair or"):
        ImageFolder(folder, 16, errors="defer").images(torch.arange(robustok_shards.COUNT + 1))
    with pytest.warns(UserWarning, match="1 of 31 images in .* cannot be read: cat/link.png .No such file"):
        assert len(ImageFolder(folder, 16)) == robustok_shards.COUNT
