"""Names of places: what is there goes before what a pattern could mean; one kind of files in a folder, or an error."""

import os
import shutil

import pytest
import torch
from tests.data import some_shards

from robustok.data import ImageFolder, open_images
from robustok.data.file_names import matches
from robustok.data.folder import FolderFiles
from robustok.data.tables import ArrowFiles, ParquetFiles
from robustok.data.tars import TarFiles

DATA = some_shards.pictures(4)


def zoo(folder):
    for name, data in zip(("cat/0.png", "cat/1.png", "dog/2.png"), DATA, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def shard(path, count=1):
    return some_shards.write_tar(path, {f"{i}.png": DATA[i] for i in range(count)})


def table(path, columns=None):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"image": DATA, "label": ["a", "b", "a", "b"]}), path)
    return path


@pytest.mark.parametrize(
    "archive", ["backup.tar", "BACKUP.TAR", "data/n01.tar", "images.parquet", "data/train-0.parquet"]
)
def test_an_archive_beside_images_is_an_error_that_names_both(archive, tmp_path):
    folder = zoo(tmp_path / "photos")
    (table if archive.endswith("parquet") else shard)(folder / archive)
    kind = archive.rpartition(".")[2].lower()
    with pytest.raises(
        ValueError,
        match=rf"photos holds images \(cat, dog\) beside {kind} files \({archive}\), .*; move the other else",
    ):
        open_images(folder, 16)
    for name in ("cat", "dog"):
        shutil.rmtree(folder / name)
    assert isinstance(open_images(folder, 16).source, ParquetFiles if kind == "parquet" else TarFiles)
    (folder / "preview.png").write_bytes(DATA[0])
    with pytest.raises(ValueError, match=r"photos holds images \(preview.png\) beside"):
        open_images(folder, 16)


def test_two_kinds_of_archives_are_an_error(tmp_path):
    shard(tmp_path / "a.tar")
    table(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"holds tar files \(a.tar\) beside parquet files \(b.parquet\), .*'.*\*.tar'"):
        open_images(tmp_path, 16)


def test_a_table_that_only_tells_of_images_changes_nothing(tmp_path):
    folder = zoo(tmp_path / "photos")
    table(folder / "metadata.parquet", {"file_name": ["cat/0.png"], "text": ["a cat"]})
    assert (open_images(folder, 16).classes, len(open_images(folder, 16))) == (("cat", "dog"), 3)


def test_hidden_archives_are_none(tmp_path):
    folder = zoo(tmp_path / "photos")
    for name in ("._backup.tar", "__MACOSX/x.tar", ".cache/a.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"nothing")
    assert open_images(folder, 16).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "name", ["s [2023]", "s{1}", "s{a,b}", "s*", "s?", "photos.tar", "photos.parquet", "x.tar.gz", "x.zip"]
)
def test_folders_may_be_called_anything(name, tmp_path):
    images = open_images(zoo(tmp_path / "images" / name), 16)
    assert (type(images.source), images.classes, len(images)) == (FolderFiles, ("cat", "dog"), 3)
    shard(tmp_path / "tars" / name / "0.tar", 2)
    shard(tmp_path / "tars" / name / "1.tar", 3)
    for pattern in ("", "*.tar", "{0..1}.tar", "{0,1}.tar", "[01].tar"):
        images = open_images(tmp_path / "tars" / name / pattern, 16)
        assert (type(images.source), len(images)) == (TarFiles, 5)
    assert len(open_images(tmp_path / "tars" / name / "1.tar", 16)) == 3
    table(tmp_path / "tables" / name / "a.parquet")
    for pattern in ("", "*.parquet", "a.parquet"):
        assert isinstance(open_images(tmp_path / "tables" / name / pattern, 16).source, ParquetFiles)


def test_a_saved_dataset_may_be_called_anything(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": data, "path": None} for data in DATA]}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
    dataset.save_to_disk(tmp_path / "pets.parquet")
    assert isinstance(open_images(tmp_path / "pets.parquet", 16).source, ArrowFiles)
    folder = zoo(tmp_path / "photos")
    (folder / "state.json").write_text("{}")  # another program's
    assert open_images(folder, 16).classes == ("cat", "dog")


def test_what_braces_name_must_be_there(tmp_path):
    for number in (0, 1, 4):
        shard(tmp_path / f"{number}.tar")
    with pytest.raises(ValueError, match=r"there is no .*2.tar, nor 1 others of .*\{0..4\}.tar; fetch what is missing"):
        TarFiles(tmp_path / "{0..4}.tar")
    assert len(TarFiles(tmp_path / "{0,4}.tar")) == 2
    assert matches(str(tmp_path / "none-{0..1}.tar")) == []
    with pytest.raises(ValueError, match="there is no file .*; give a tar file, or a pattern such as"):
        open_images(tmp_path / "{5..3}.tar", 16)


def test_classes_and_sets_have_the_names_of_links(tmp_path):
    for number, kind in enumerate(("cat", "dog")):
        store = tmp_path / "store" / str(number) / "images"
        store.mkdir(parents=True)
        (store / "a.png").write_bytes(DATA[number])
        (tmp_path / "linked").mkdir(exist_ok=True)
        (tmp_path / "linked" / kind).symlink_to(store)
    (tmp_path / "pets").symlink_to(tmp_path / "linked")
    assert ImageFolder(tmp_path / "pets", 16).classes == ("cat", "dog")
    assert ImageFolder(tmp_path / "pets", 16).describe()["name"] == "pets"
    (tmp_path / "store" / "0" / "images" / "loop").symlink_to(tmp_path / "linked")
    with pytest.raises(ValueError, match="linked/cat/loop is a link to a folder that it lies in; remove the link"):
        ImageFolder(tmp_path / "linked", 16)


def test_links_to_nowhere_are_not_left_out_in_silence(tmp_path):
    folder = zoo(tmp_path / "photos")
    (folder / "emu").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="photos/emu is a link to nowhere; mend the link, or remove it"):
        ImageFolder(folder, 16)
    (folder / "cat" / "emu").symlink_to(tmp_path / "nowhere")
    assert len(ImageFolder(folder / "cat", 16)) == 2  # images of one place; folders tell nothing


def test_what_is_no_file_is_no_image(tmp_path):
    """A pipe, which would be waited for without end."""
    folder = zoo(tmp_path / "photos")
    os.mkfifo(folder / "cat" / "pipe.png")
    assert len(ImageFolder(folder, 16)) == 3


def test_names_that_are_no_text(tmp_path):
    """Bytes that are not UTF-8, as of an old disk."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(DATA[0])
    assert len(ImageFolder(os.fsdecode(folder), 16).describe()["hash"]) == 16
    shard = some_shards.write_tar(tmp_path / "a.tar", {"caf\udce9/\udcff.png": DATA[0], "b/0.png": DATA[1]})
    for _ in range(2):  # and again from the index that was kept
        assert TarFiles(shard).classes == ("b", "caf\udce9")
        assert len(TarFiles(shard).describe()["hash"]) == 16


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("x.tar.gz", "x.tar.gz is a packed archive, in which images have no places to read from; unpack it and give"),
        ("x.TGZ", "is a packed archive"),
        ("x.zip", "x.zip is a packed archive"),
        ("x-{0..3}.tar.gz", "is a packed archive"),
        ("x.npz", "x.npz is a file of samples, which are only scored; save its images as files"),
        ("x.png", "x.png is one image; give the folder that it lies in"),
        ("x.csv", "x.csv is a file, not a folder; wanted a folder of images"),
        ("nowhere", "nowhere is not a folder; wanted a folder of images"),
        ("https://host/x.zip", "x.zip is no address of tar shards; give those, or fetch it"),
    ],
)
def test_what_is_no_set_of_images_says_what_to_do(name, match, tmp_path):
    if "/" not in name and name != "nowhere":
        (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ValueError, match=match):
        open_images(name if "/" in name else tmp_path / name, 16)


def test_a_folder_of_packed_archives_says_so(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="no image found in .*; found .zip, to be unpacked"):
        open_images(tmp_path, 16)


def test_of_members_with_one_name_the_last_counts(tmp_path):
    """As when a tar that was appended to is unpacked."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in DATA[:2]:
            entry = tarfile.TarInfo("./0.png")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.png").write_bytes(DATA[1])
    images = open_images(tmp_path / "a.tar", 16)
    assert len(images) == 1
    assert torch.equal(images.images(torch.tensor([0])), ImageFolder(tmp_path / "folder", 16).images(torch.tensor([0])))
