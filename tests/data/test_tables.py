"""Parquet files and Hugging Face datasets: what they hold, and what of theirs is refused."""

import json

import pytest
import torch
from tests.data import some_shards

from robustok.data import open_images, tables
from robustok.data.folder import FolderFiles
from robustok.data.loading import training_batch
from robustok.data.sources import is_tar
from robustok.data.tables import ParquetFiles, recent
from robustok.data.tars import TarFiles

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
EVERYTHING = torch.arange(some_shards.COUNT)


def written(folder, columns, name="train-00000-of-00001.parquet", **how):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, **how)
    return folder


def test_row_groups_are_read_once_an_epoch(tmp_path, monkeypatch):
    folder, read = some_shards.write_parquet(tmp_path / "set"), []
    own = ParquetFiles._load
    monkeypatch.setattr(ParquetFiles, "_load", lambda files, number: read.append(number) or own(files, number))
    images = open_images(folder, 16, window=2, workers=4)
    groups = len(images.source.groups)
    assert list(images.windows.sizes) == [4, 4, 4, 4, 2, 4, 4, 4]
    for epoch in (1, 2):
        for step in range(6):
            training_batch(images, 5, 0, 6 * (epoch - 1) + step)
        assert len(read) <= epoch * groups + 4  # windows of two epochs overlap in memory
    assert set(read) == set(range(groups))
    assert ParquetFiles(folder).windows.window == groups  # for 4,096 images or all


def test_labels_are_numbers_or_names_or_none(tmp_path):
    data = some_shards.pictures(3)
    folder = written(tmp_path / "a", {"jpg": data, "label": ["dog", "cat", "dog"], "fine": [4, 0, 2]})
    assert (ParquetFiles(folder).classes, ParquetFiles(folder).labels.tolist()) == (("cat", "dog"), [1, 0, 1])
    with pytest.warns(UserWarning, match="labels of 'fine' in .* go up to 4, but no image has 1, 3: these are classes"):
        assert ParquetFiles(folder, labels="fine").labels.tolist() == [4, 0, 2]
    assert ParquetFiles(folder, labels="none").labels.tolist() == [0, 0, 0]
    assert ParquetFiles(some_shards.write_parquet(tmp_path / "b")).classes == some_shards.CLASSES
    with pytest.raises(ValueError, match="has no column 'coarse'; choose labels from jpg, label, fine, or 'none'"):
        ParquetFiles(folder, labels="coarse")
    hidden = written(tmp_path / "c", {"image": data, "label": [-1, -1, 2]})
    with pytest.raises(ValueError, match="2 of 3 images in .* have no 'label', as in test splits; choose another"):
        ParquetFiles(hidden)


def test_paths_instead_of_images_are_an_error_that_says_why(tmp_path):
    cells = [{"bytes": None, "path": "/gone/0.png"}, {"bytes": None, "path": "/gone/1.png"}]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    folder = written(tmp_path / "a", {"image": pa.array(cells, kind), "label": [0, 1]})
    with pytest.raises(ValueError, match="row 1 of .* is a path, /gone/1.png, not an image: .*embed_table_storage"):
        open_images(folder, 16).images(torch.tensor([1]))
    there = tmp_path / "0.png"
    there.write_bytes(some_shards.pictures(1)[0])
    cells = [{"bytes": None, "path": str(there)}]
    folder = written(tmp_path / "b", {"image": pa.array(cells, kind), "label": [0]})
    assert open_images(folder, 16).images(torch.tensor([0])).shape == (1, 3, 16, 16)


def test_parquet_that_cannot_be_trained_on_is_refused(tmp_path, monkeypatch):
    data = some_shards.pictures(4)
    folder = written(tmp_path / "set", {"image": data})
    written(folder, {"image": data}, "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"holds the splits test, train; give a pattern .* '.*/train-\*.parquet'"):
        ParquetFiles(folder)
    assert len(ParquetFiles(f"{folder}/test-*.parquet")) == 4
    with pytest.raises(ValueError, match=r"no column of .* holds images.*; found text \(string\)"):
        ParquetFiles(written(tmp_path / "texts", {"text": ["a"]}))
    with pytest.raises(ValueError, match="there is no parquet file in .*nowhere; give a file, a folder or a pattern"):
        ParquetFiles(tmp_path / "nowhere")
    monkeypatch.setattr(tables, "LARGEST", 1000)
    with pytest.raises(ValueError, match="row group 0 of .* has 4 rows, .* GB, .*; write the file again with row_gro"):
        ParquetFiles(f"{folder}/test-*.parquet")
    monkeypatch.undo()
    file = folder / "test-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="cannot be read as parquet .*; fetch it again"):
        ParquetFiles(file)
    file.write_bytes(whole)
    images = open_images(file, 16)
    file.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="row group 0 of .* is damaged or cut short .*; fetch it again"):
        images.images(torch.tensor([0]))


def test_what_fails_to_load_is_loaded_again():
    answers = [OSError("once"), "there"]

    def load(number):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    loaded = recent(load, 2)
    with pytest.raises(OSError, match="once"):
        loaded(0)
    assert loaded(0) == "there"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What `save_to_disk` leaves, and a dataset dictionary."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hub")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(some_shards.CLASSES))}
    )
    cells = [{"bytes": data, "path": None} for data in some_shards.pictures()]
    columns = {"image": cells, "label": [some_shards.label(i) for i in range(some_shards.COUNT)]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    dataset.save_to_disk(root / "saved", num_shards=3)
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(root / "splits")
    some_shards.write_folder(root / "folder" / "train")
    return root


def test_a_saved_dataset_is_read_in_place_and_goes_on_with_the_very_next_image(saved):
    images = open_images(saved / "saved", 16)
    folder = open_images(saved / "folder" / "train", 16)
    assert torch.equal(images.images(EVERYTHING), folder.images(EVERYTHING))
    assert (images.classes, images.labels.tolist()) == (some_shards.CLASSES, folder.labels.tolist())
    straight = torch.cat([training_batch(images, 7, 0, step) for step in range(9)])
    again = [training_batch(open_images(saved / "saved", 16, workers=2), 7, 0, step) for step in range(6, 9)]
    assert torch.equal(torch.cat(again), straight[42:])
    assert images.describe() == open_images(saved / "saved", 16).describe()
    with pytest.raises(ValueError, match="splits holds the splits test, train; give one of them: .*splits/test"):
        open_images(saved / "splits", 16)
    (saved / "broken").mkdir()
    (saved / "broken" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "gone.arrow"}]}))
    with pytest.raises(ValueError, match="broken is no whole folder of Dataset.save_to_disk .*; save it again"):
        tables.saved_files(saved / "broken")


def test_a_dataset_by_name(saved, monkeypatch, tmp_path):
    """The hub is not asked: a local folder has the same loader."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "nobody/nothing":
            raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub\nmore")
        return datasets.load_from_disk(str(saved / "saved"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    images = open_images("hf:somebody/pets", 16)
    assert open_images("hf:somebody/pets:validation", 16).describe()["name"] == "pets:validation"
    assert asked == [("somebody/pets", "train"), ("somebody/pets", "validation")]
    assert torch.equal(images.images(EVERYTHING), open_images(saved / "saved", 16).images(EVERYTHING))
    with pytest.raises(
        ValueError, match="hf:nobody/nothing cannot be had .Dataset 'nobody/nothing' doesn't exist on t"
    ):
        open_images("hf:nobody/nothing", 16)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    for module, name in (("pyarrow", tmp_path / "a.parquet"), ("datasets", "hf:somebody/pets")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ValueError, match=rf"takes {module}; pip install 'robustok\[data\]'"):
            open_images(name, 16)


def test_the_kind_of_a_set_is_told_by_its_name(saved, tmp_path, monkeypatch):
    pattern = some_shards.write_tars(tmp_path / "tars")
    some_shards.write_parquet(tmp_path / "parquet" / "data")
    sets = {
        TarFiles: (pattern, str(tmp_path / "tars"), str(tmp_path / "tars" / "*.tar")),
        ParquetFiles: (str(tmp_path / "parquet"), str(tmp_path / "parquet" / "data" / "train-*.parquet")),
        tables.ArrowFiles: (str(saved / "saved"),),
        FolderFiles: (str(saved / "folder" / "train"),),
    }
    for kind, names in sets.items():
        for name in names:
            images = open_images(name, 16)
            assert (type(images.source), len(images), len(images.classes)) == (kind, some_shards.COUNT, 3)
    assert open_images(saved / "folder" / "train", 16).errors == "skip"
    monkeypatch.setattr("robustok.data.sources.CHECKED", 10)
    assert open_images(saved / "folder" / "train", 16).errors == "defer"
    assert is_tar("https://host/a-{00..10}.tar?token=1")
    with pytest.raises(ValueError, match="a window is of tar shards or of parquet's row groups; leave it out for"):
        open_images(saved / "folder" / "train", 16, window=3)


def test_columns_as_others_write_them(tmp_path):
    data = some_shards.pictures(4)
    numbers = [1.0, 0.0, 10.0, 2.0]

    def read(**columns):
        return ParquetFiles(written(tmp_path / "set", columns))

    kind = pa.struct({"path": pa.string(), "bytes": pa.binary()})
    turned = pa.array([{"path": "a.png", "bytes": image} for image in data], kind)
    for images in (turned, pa.array([{"bytes": image} for image in data]), pa.array(data, pa.large_binary()), data):
        files = read(Picture=images, Label=["b", "a", "b", "b"])
        assert [files.read(index) for index in range(4)] == data
        assert (files.classes, files.labels.tolist()) == (("a", "b"), [1, 0, 1, 1])
    for name in ("image", "content"):
        files = read(md5=[b"0123456789abcdef"] * 4, **{name: data})
        assert [files.read(index) for index in range(4)] == data
    assert read(thumbnail=data[:1] * 4, image=data).read(3) == data[3]
    assert read(crc=[b"a"] * 4, content=[b"broken", *data[1:]]).read(1) == data[1]
    with pytest.warns(UserWarning, match="'label' in .* are 4 different numbers up to 10: each is a class"):
        assert read(image=data, label=numbers).classes == ("0", "1", "2", "10")
    with pytest.warns(UserWarning, match="'label' in .* are 4 different numbers up to 18446744073709551615"):
        files = read(image=data, label=pa.array([7, 0, 2**64 - 1, 1], pa.uint64()))
    assert (files.classes[3], files.labels.tolist()) == (str(2**64 - 1), [2, 0, 3, 1])
    assert read(image=data, label=[b"dog", b"cat", b"dog", b"cat"]).classes == ("cat", "dog")
    assert read(image=data, label=pa.array(["dog", "cat", "dog", "cat"]).dictionary_encode()).classes == ("cat", "dog")
    assert read(image=data, label=[True, False, True, True]).labels.tolist() == [1, 0, 1, 1]


def test_columns_that_may_mean_several_things_are_asked_about(tmp_path):
    data = some_shards.pictures(2)

    def refused(match, **columns):
        with pytest.raises(ValueError, match=match):
            ParquetFiles(written(tmp_path / "set", columns))

    refused(
        "the columns left, right of .* hold images; call the one you mean 'image', or drop others",
        left=data,
        right=data,
    )
    refused(
        "no column of .* holds images: the first cells of md5, sha are no image files; write",
        md5=[b"a"] * 2,
        sha=[b"b"] * 2,
    )
    refused(r"'label' in .* holds the fraction 0.5; wanted a class", image=data, label=[0.5, 1.0])
    refused(r"'labels' in .* holds \[1, 2\] for one image; wanted one class", image=data, labels=[[1, 2], [1]])
    refused("2 of 2 images in .* have no 'label', as in test splits", image=data, label=[-1, -1])
    refused("1 of 2 images in .* have no 'label', as in test splits", image=data, label=[float("nan"), 1.0])
    refused("1 of 2 images in .* have no 'label', as in test splits", image=data, label=["", "cat"])
    refused(
        r"'label' in .* holds b'\\xff', which is no text; wanted a whole number or a name",
        image=data,
        label=[b"\xff", b"a"],
    )
    refused("'label' in .* has the label -2; number classes from 0", image=data, label=[-2, 1])


def declared(path, data, labels, names):
    """A parquet file whose metadata names the classes, as datasets writes it."""
    about = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": [{"bytes": one, "path": None} for one in data], "label": labels})
    told = {"huggingface": json.dumps({"info": {"features": about}})}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(told), path)
    return path


def test_declared_classes_are_held_to(tmp_path):
    data = some_shards.pictures(2)
    with pytest.raises(
        ValueError, match="label of row 1 in 'label' in .* is 2, which is none of its 2 classes cat, dog"
    ):
        ParquetFiles(declared(tmp_path / "a.parquet", data, [0, 2], ["cat", "dog"]))
    assert ParquetFiles(declared(tmp_path / "b.parquet", data, ["dog", "cat"], ["cat", "dog"])).labels.tolist() == [
        1,
        0,
    ]
    declared(tmp_path / "set" / "0.parquet", data, [0, 1], ["cat", "dog"])
    declared(tmp_path / "set" / "1.parquet", data, [0, 1], ["dog", "cat"])
    with pytest.raises(
        ValueError, match="1.parquet and .*0.parquet of .* have other columns or other names of classes"
    ):
        ParquetFiles(tmp_path / "set")
    assert ParquetFiles(tmp_path / "set", labels="none").classes == ("images",)


@pytest.mark.parametrize(
    "told", ["no JSON", "[]", '{"info": 3}', '{"info": {"features": {"image": [3], "label": [4]}}}']
)
def test_what_datasets_wrote_may_be_damaged(told, tmp_path):
    data = some_shards.pictures(2)
    table = pa.table({"image": data, "label": [1, 0]}).replace_schema_metadata({"huggingface": told})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ParquetFiles(tmp_path / "a.parquet").labels.tolist() == [1, 0]


def test_files_of_one_set_may_store_numbers_in_several_ways(tmp_path):
    data = some_shards.pictures(2)
    for number, kind in enumerate((pa.int8(), pa.float32(), pa.string())):
        labels = pa.array([0, 1], pa.int8()).cast(kind)
        written(tmp_path / "set", {"image": data, "label": labels}, f"{number}.parquet")
    assert ParquetFiles(tmp_path / "set").labels.tolist() == [0, 1] * 3


def test_an_empty_cell_is_a_broken_image(tmp_path):
    data = some_shards.pictures(3)
    folder = written(tmp_path / "set", {"image": [data[0], None, data[2]], "label": [0, 0, 1]})
    with pytest.raises(
        ValueError, match=r"row 1 in .* cannot be read .the cell is empty.; repair or remove it, or pass"
    ):
        open_images(folder, 16).images(torch.arange(3))
    with pytest.warns(UserWarning, match="1 of 3 images .* row 1 .the cell is empty.; they are skipped"):
        assert len(open_images(folder, 16, errors="skip")) == 2
    files = tables.ArrowFiles(pq.read_table(folder), "set")
    assert (len(files.labels), len(files.describe()["hash"])) == (3, 16)


def test_columns_of_one_name_are_refused(tmp_path):
    data = some_shards.pictures(2)
    columns = [pa.array(data), pa.array([0, 1]), pa.array([1, 0])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "label", "label"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has 2 columns called 'label'; rename or drop some"):
        ParquetFiles(tmp_path / "a.parquet")


def test_a_damaged_saved_dataset_says_so(tmp_path):
    for text in ("[]", "{", '{"_data_files": [1]}', "[" * 10_000):
        (tmp_path / "state.json").write_text(text)
        (tmp_path / "dataset_info.json").write_text("{}")
        with pytest.raises(ValueError, match="is no whole folder of Dataset.save_to_disk .*; save it again"):
            open_images(tmp_path, 16)
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the splits ; give one of them"):
        open_images(tmp_path, 16)


def test_a_name_without_a_dataset_says_so():
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="hf: names no dataset; write hf:owner/name"):
        open_images("hf:", 16)
