"""Folders: classes, order, broken files, and listings that are remembered while nothing changes."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import some_shards

from robustok.data import ImageFolder
from robustok.data import folder as folders
from robustok.data.folder import FolderFiles
from robustok.data.images import DRAWS
from robustok.runtime.checkpoint import short_hash
from robustok.shapes import to_pixels

RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (51, 51, 51)


def everything(images):
    return torch.arange(len(images))


def draws(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def save(path, color=GRAY, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def zoo(tmp_path):
    """Two classes, three files."""
    save(tmp_path / "cat" / "b.png", BLUE)
    save(tmp_path / "cat" / "a.png", RED)
    save(tmp_path / "dog" / "sub" / "c.PNG", GRAY)
    return tmp_path


def test_folder_with_classes(zoo):
    images = ImageFolder(zoo, size=8)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1]
    colors = to_pixels(images.images(everything(images)))
    assert colors.shape == (3, 3, 8, 8)
    assert colors.unique(dim=2).unique(dim=3).flatten(1).tolist() == [[*RED], [*BLUE], [*GRAY]]
    assert torch.equal(images.images(torch.tensor([2, 0])), images.images(everything(images))[[2, 0]])


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif", ".TIFF", ".tga"])
@pytest.mark.parametrize("side", [8, 300])
def test_other_pictures_of_the_same_names_and_byte_counts_are_another_set(suffix, side, tmp_path):
    def described(seed):
        pixels = np.random.default_rng(seed).integers(256, size=(2, side, side, 3), dtype=np.uint8)
        pixels[:, : side // 3] = 255  # what pictures have in common
        for name, picture in zip("ab", pixels, strict=True):
            Image.fromarray(picture).save(tmp_path / f"{name}{suffix}")
        return [path.stat().st_size for path in sorted(tmp_path.iterdir())], FolderFiles(tmp_path).describe()

    (sizes, first), (same_sizes, other) = described(0), described(1)
    assert sizes == same_sizes
    assert first["hash"] != other["hash"]
    assert described(0) == (sizes, first)


def test_the_hash_of_compressed_files_is_of_names_and_byte_counts(tmp_path):
    save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    assert FolderFiles(tmp_path).describe()["hash"] == short_hash(f"a.png {size}".encode())
    (tmp_path / "b.bmp").symlink_to(tmp_path / "nowhere")  # reading it tells
    assert FolderFiles(tmp_path).describe()["hash"] == short_hash(f"a.png {size}\nb.bmp 0".encode())


def test_flat_folder_is_one_class(tmp_path):
    for name in ("b.jpg", "a.png", ".hidden.png", "notes.txt", ".cache/c.png"):
        save(tmp_path / "photos" / name) if name != "notes.txt" else (tmp_path / "photos" / name).write_text("hi")
    images = ImageFolder(tmp_path / "photos", size=8)
    assert images.classes == ("images",)
    assert [images.name(i) for i in range(len(images))] == ["a.png", "b.jpg"]
    assert images.labels.tolist() == [0, 0]


def test_order_is_kept_by_the_threads(tmp_path):
    for i in range(40):
        save(tmp_path / f"{i:02d}.png", (i, i, i), size=(8 + 9 * (i % 5), 40))  # unequal work
    images = ImageFolder(tmp_path, size=8, workers=4)
    assert to_pixels(images.images(everything(images)))[:, 0, 0, 0].tolist() == list(range(40))


def test_training_view_depends_on_the_generator_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    for i, square in enumerate(pixels):
        Image.fromarray(square).save(tmp_path / f"{i}.png")
    few, many = ImageFolder(tmp_path, 16, workers=1), ImageFolder(tmp_path, 16, workers=4)
    view = few.training_images(everything(few), draws(4))
    assert view.shape == (4, 3, 16, 16)
    assert torch.equal(view, many.training_images(everything(many), draws(4)))
    assert not torch.equal(view, few.training_images(everything(few), draws(4, seed=1)))
    assert not torch.equal(view, few.images(everything(few)))


def test_half_of_the_training_images_are_mirrored_and_none_on_request(tmp_path):
    image = Image.new("RGB", (16, 16), RED)
    image.paste(BLUE, (8, 0, 16, 16))
    image.save(tmp_path / "a.png")
    indices = torch.zeros(200, dtype=torch.int64)

    def mirrored(flip):
        batch = ImageFolder(tmp_path, 8, flip=flip).training_images(indices, draws(200))
        return int(batch[:, 2, 0, 0].gt(0).sum())  # blue on the left

    assert 70 <= mirrored(True) <= 130  # 100 expected, 7 is one standard deviation
    assert mirrored(False) == 0


def test_a_broken_file_is_named_and_skipped(zoo):
    whole = (zoo / "cat" / "b.png").read_bytes()
    (zoo / "cat" / "b.png").write_bytes(whole[: len(whole) // 2])
    (zoo / "dog" / "no.jpg").write_text("no image")
    with pytest.warns(UserWarning, match=r"2 of 4 images in .* cannot be read: cat/b.png \(.+\), dog/no.jpg \(not an"):
        images = ImageFolder(zoo, size=8)
    assert [broken.name for broken in images.broken] == ["cat/b.png", "dog/no.jpg"]
    assert images.labels.tolist() == [0, 1]
    assert images.images(everything(images)).shape == (2, 3, 8, 8)


def test_a_broken_file_is_an_error_on_request(zoo):
    (zoo / "cat" / "no.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 4 images in .* cat/no.png .* pass errors='skip'"):
        ImageFolder(zoo, size=8, errors="raise")
    deferred = ImageFolder(zoo, size=8, errors="defer")
    assert len(deferred) == 4
    with pytest.raises(ValueError, match=r"no.png in .* cannot be read \(not an image\); .* errors='skip'"):
        deferred.images(everything(deferred))


def test_only_the_first_five_broken_files_are_named(zoo):
    for i in range(7):
        (zoo / "cat" / f"no{i}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"7 of 10 images .*no4.png \(not an image\), and 2 more; they are skipped"):
        ImageFolder(zoo, size=8)


@pytest.mark.filterwarnings("ignore:.*they are skipped")
@pytest.mark.parametrize("content", [None, b"no image"])
def test_a_class_without_an_image_is_an_error(zoo, content):
    (zoo / "emu").mkdir()
    if content:
        (zoo / "emu" / "no.png").write_bytes(content)
    with pytest.raises(ValueError, match="no image that can be read in .* for class emu; add images, or remove"):
        ImageFolder(zoo, size=8)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no image found in .*; wanted .png, .jpg, .*one sub-folder per class"):
        ImageFolder(tmp_path, size=8)
    with pytest.raises(ValueError, match="nowhere is not a folder; wanted a folder of images"):
        ImageFolder(tmp_path / "nowhere", size=8)


def test_images_beside_class_folders_are_an_error(zoo):
    save(zoo / "loose.png")
    with pytest.raises(ValueError, match="has 1 images beside the class folders cat, dog; move them"):
        ImageFolder(zoo, size=8)


@pytest.mark.parametrize("errors", ["skip", "defer"])
def test_an_image_smaller_than_the_crop_is_an_error_unless_enlarged(zoo, errors):
    save(zoo / "cat" / "small.png", size=(20, 10))

    def all_images(upscale):
        images = ImageFolder(zoo, size=16, errors=errors, upscale=upscale)
        return images.images(everything(images))

    with pytest.raises(ValueError, match=r"1 images .* the crop of 16 pixels: cat/small.png \(20 x 10\); .*upscale"):
        all_images(upscale=False)
    assert all_images(upscale=True).shape == (4, 3, 16, 16)


@pytest.mark.usefixtures("unchecked")
def test_folder_refuses_what_it_cannot_do(zoo):
    with pytest.raises(ValueError, match="errors is .ignore.; choose .skip., .raise., .defer. or .replace."):
        ImageFolder(zoo, size=8, errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size is 0; ask for 1 pixel or more"):
        ImageFolder(zoo, size=0)


def test_folder_describes_its_files_not_its_place(zoo):
    before = ImageFolder(zoo, size=8).describe()
    assert (before["name"], before["count"], before["view"]) == (zoo.name, 3, "ADM center crop to 8")
    moved = zoo.rename(zoo.with_name("elsewhere"))
    assert ImageFolder(moved, size=8).describe()["hash"] == before["hash"]
    save(moved / "dog" / "new.png")
    assert ImageFolder(moved, size=8).describe()["hash"] != before["hash"]


@pytest.fixture
def folder(tmp_path):
    return some_shards.write_folder(tmp_path / "folder")


@pytest.fixture
def remembering(monkeypatch, tmp_path):
    """Every listing is kept, and changes count at once; `listed()` tells how often a folder was listed."""
    monkeypatch.setenv("ROBUSTOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "REMEMBERED", 1)
    monkeypatch.setattr(folders, "SETTLED", 0)
    calls, own = [], folders._list
    monkeypatch.setattr(folders, "_list", lambda path: calls.append(path) or own(path))
    return lambda: len(calls)


def test_a_listing_holds_until_a_folder_changes(folder, remembering):
    first = FolderFiles(folder)
    assert (remembering(), FolderFiles(folder).describe(), remembering()) == (1, first.describe(), 1)
    (folder / "cat" / "new.png").write_bytes(some_shards.pictures(1)[0])
    assert len(FolderFiles(folder)) == len(first) + 1
    assert remembering() == 2
    (folder / "dog" / "sub").mkdir()
    (folder / "dog" / "sub" / "10.png").write_bytes(some_shards.pictures(1)[0])
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
    assert len(FolderFiles(folder)) == some_shards.COUNT
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ROBUSTOK_DATA", str(tmp_path / "file"))
    assert len(FolderFiles(folder)) == some_shards.COUNT
    assert remembering() == 3


def test_a_folder_that_just_changed_is_not_remembered(folder, remembering, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SETTLED", 10**12)
    FolderFiles(folder)
    assert not (tmp_path / "cache").exists()


def test_splits_are_no_classes(tmp_path):
    for split in ("train", "val"):
        some_shards.write_folder(tmp_path / "imagenet" / split)
    with pytest.raises(
        ValueError, match="imagenet holds the splits train, val, not classes; give one of them: .*train"
    ):
        FolderFiles(tmp_path / "imagenet")


SYNSETS = ("n02", "n01", "n02", "n03")


@pytest.fixture
def validation(tmp_path):
    """A flat folder as ImageNet's validation images."""
    for number, data in enumerate(some_shards.pictures(4)):
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


@pytest.mark.parametrize(
    ("target", "why"), [("nowhere.png", "No such file or directory"), ("link.png", "Too many levels of symbolic links")]
)
def test_a_link_to_nowhere_or_to_itself_is_a_broken_image(folder, target, why):
    os.symlink(target, folder / "cat" / "link.png")
    with pytest.raises(ValueError, match=f"cat/link.png in .* cannot be read .{why}.; repair or"):
        ImageFolder(folder, 16, errors="defer").images(torch.arange(some_shards.COUNT + 1))
    with pytest.warns(UserWarning, match=f"1 of 31 images in .* cannot be read: cat/link.png .{why}"):
        assert len(ImageFolder(folder, 16)) == some_shards.COUNT


@pytest.mark.parametrize("size", ["16", None, 1.5, float("nan"), 0, -1])
def test_sizes_and_workers_are_whole_numbers(size, tmp_path, unchecked):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="size is .*; ask for 1 pixel or more, a whole number"):
        ImageFolder(tmp_path, size)
    if size is not None:
        with pytest.raises(ValueError, match="workers is .*; ask for 1 thread or more, a whole number"):
            ImageFolder(tmp_path, 16, workers=size)


def test_numbers_of_numpy_are_whole_numbers_too(folder, unchecked):
    images = ImageFolder(folder, np.int64(16), workers=np.int64(2))
    assert (type(images.size), images.size, images.workers) == (int, 16, 2)
    assert torch.equal(images.images([1, 2]), images.images(torch.tensor([1, 2])))
    with pytest.raises(ValueError, match="of a mask give mask.nonzero"):
        images.images(images.labels == 1)
