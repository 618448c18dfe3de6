"""Every reader by every oddity: the same images under the same names of classes, or the same refusal.

Each small set is one list of pictures, written as a folder, the tar of that folder, a parquet file, a folder of
`save_to_disk` and an npz file; what lies about in a folder besides, `litter` adds before its tar is made.
"""

import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.data import open_images
from robustok.data.npz import NpzImages
from robustok.shapes import to_pixels

SIDE = 8
READERS = ("folder", "tar", "parquet", "hub", "npz")


class Picture(NamedTuple):
    kind: str  # its class
    name: str
    data: bytes  # the file
    rgb: np.ndarray  # what it shows, upright: (h, w, 3)


def noise(number, shape=(SIDE, SIDE)):
    return np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)


def picture(kind, name, number=0, shape=(SIDE, SIDE)):
    rgb = noise(number, shape)
    return Picture(kind, name, encoded(Image.fromarray(rgb)), rgb)


def encoded(image, form="png", **options):
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pictures_of(kinds, names=("a.png", "b.png")):
    return [picture(kind, name, 10 * i + j) for i, kind in enumerate(kinds) for j, name in enumerate(names)]


def plain(mode, value, rgb, form="png"):
    """A picture of one color in a mode of Pillow's."""
    file = encoded(Image.new(mode, (SIDE, SIDE), value), form)
    return Picture("cat", f"{mode.replace(';', '')}-{value}.{form}", file, np.full((SIDE, SIDE, 3), rgb, np.uint8))


def modes():
    palette = Image.new("P", (SIDE, SIDE), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    return [
        plain("1", 1, 255),
        plain("L", 77, 77),
        plain("LA", (100, 0), 255),
        plain("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        plain("I;16", 257 * 100, 100),
        plain("CMYK", (255, 0, 0, 0), (0, 255, 255), "tiff"),
        Picture("dog", "p.png", encoded(palette), np.full((SIDE, SIDE, 3), (10, 20, 30), np.uint8)),
    ]


def turned(orientation, form="png"):
    """A picture that is stored turned, with the EXIF that says so."""
    upright = noise(orientation, (SIDE, SIDE + 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {3: np.rot90(upright, 2), 6: np.rot90(upright), 8: np.rot90(upright, -1)}[orientation]
    return Picture("cat", f"{orientation}.{form}", encoded(Image.fromarray(stored.copy()), form, exif=exif), upright)


def damaged(exif, name):
    rgb = noise(len(exif))
    return Picture("dog", name, encoded(Image.fromarray(rgb), exif=exif), rgb)


def called(suffix, form):
    """A picture of one color that JPEG, too, keeps as it is."""
    rgb = np.full((SIDE, SIDE, 3), 128, np.uint8)
    return Picture("cat", f"a{suffix}", encoded(Image.fromarray(rgb), form), rgb)


def of_every_suffix():
    forms = {".jfif": "jpeg", ".jpe": "jpeg", ".pjpeg": "jpeg", ".JPG": "jpeg", ".ppm": "ppm", ".tga": "tga"}
    forms |= {".pgm": "ppm", ".jp2": "jpeg2000", ".tif": "tiff", ".bmp": "bmp", ".apng": "png"}
    return [called(suffix, form) for suffix, form in forms.items()]


SETS: dict[str, Callable[[], list[Picture]]] = {
    "blanks in names": lambda: pictures_of(("golden retriever", "golden eagle"), ("a b.png", " c.png")),
    "brackets and braces": lambda: pictures_of(("[a]", "{b,c}", "d{1..2}"), ("[1].png", "{2}.png", "*.png")),
    "other scripts": lambda: pictures_of(("été", "日本", "Ωmega"), ("ü.png", "写真.png")),
    "accents in two spellings": lambda: pictures_of(("e\u0301te", "f", "e\u0301", "u\u0308"), ("u\u0308.png",)),
    "signs": lambda: pictures_of(("a,b", 'c"d', "e;f", "g=h", "i%20j"), ("1,2.png", "a'b.png", "c.d.e.png")),
    "upper case": lambda: pictures_of(("Zebra", "ant"), ("A.PNG", "b.Png")),
    "numbers": lambda: pictures_of(("0", "1", "2", "10")),
    "numbers with gaps": lambda: pictures_of(("3", "20", "100")),
    "padded numbers": lambda: pictures_of(("000", "001", "002")),
    "dates": lambda: pictures_of(("20240101", "20240102", "20240103")),
    "numbers beyond 64 bits": lambda: pictures_of((str(2**63), str(2**64), str(2**70))),
    "synsets": lambda: pictures_of(("n01440764", "n02"), ("n01440764_1.png",)),
    "a single class": lambda: [picture("images", "a.png"), picture("images", "b.png", 1)],
    "high": lambda: [picture("cat", f"{i}.png", i, (SIDE + 5, SIDE)) for i in range(3)],
    "wide": lambda: [picture("cat", f"{i}.png", i, (SIDE, 2 * SIDE + 1)) for i in range(3)],
    "modes": modes,
    "turned by EXIF": lambda: [turned(3), turned(6), turned(8)],
    "damaged EXIF": lambda: [
        damaged(b"Exif\0\0garbage", "a.png"),
        damaged(b"Exif\0\0II*\0\xff\xff\xff\xff", "b.png"),
        damaged(b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", "c.png"),
        damaged(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xf0\xff\0\0", "d.png"),
    ],
    "suffixes": of_every_suffix,
}


def write_folder(root, pictures, litter=None):
    for one in pictures:
        file = root / one.kind / one.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(one.data)
    if litter:
        litter(root)
    return root


def write_tar(path, pictures, litter=None, above=""):
    """The tar of the folder, whose members lie below `above`."""
    folder = write_folder(path.with_suffix(".packed"), pictures, litter)
    with tarfile.open(path, "w") as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, f"{above}{entry.name}")
    return path


def write_parquet(path, pictures, names=True):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [{"path": one.name, "bytes": one.data} for one in pictures]
    pq.write_table(pa.table({"image": cells, "label": [one.kind for one in pictures]}), path)
    return path


def write_hub(path, pictures, kinds=None):
    datasets = pytest.importorskip("datasets")
    kinds = kinds or kinds_of(pictures)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=kinds)})
    columns = {
        "image": [{"bytes": one.data, "path": one.name} for one in pictures],
        "label": [kinds.index(normalize("NFC", one.kind)) for one in pictures],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(path)
    return path


def write_npz(path, pictures, kinds):
    np.savez(
        path,
        np.stack([one.rgb for one in pictures]),
        np.array([kinds.index(normalize("NFC", one.kind)) for one in pictures]),
    )
    return path


def read_by(reader, folder, pictures, *, litter=None, **how):
    """The set as a reader gives it."""
    folder.mkdir(exist_ok=True)
    match reader:
        case "folder":
            place = write_folder(folder / "set", pictures, litter)
        case "tar":
            place = write_tar(folder / "set.tar", pictures, litter)
        case "parquet":
            place = write_parquet(folder / "set.parquet", pictures)
        case "hub":
            place = write_hub(folder / "saved", pictures)
    return open_images(place, SIDE, **how)


def shown(pictures):
    """Class and pixels of pictures, which are cropped to their middle, in an order of their own."""

    def square(rgb):
        top, left = ((side - SIDE) // 2 for side in rgb.shape[:2])
        return rgb[top : top + SIDE, left : left + SIDE].tobytes()

    return sorted((normalize("NFC", one.kind), square(one.rgb)) for one in pictures)


def seen(images, classes):
    squares = to_pixels(images.images(torch.arange(len(images)))).permute(0, 2, 3, 1).numpy()
    kinds = [classes[label] for label in images.labels.tolist()]
    return sorted((kind, square.tobytes()) for kind, square in zip(kinds, squares, strict=True))


def kinds_of(pictures):
    """Classes in their order: numbers by value, else text."""
    kinds = {normalize("NFC", one.kind) for one in pictures}
    return sorted(kinds, key=int) if all(kind.isdecimal() for kind in kinds) else sorted(kinds)


@pytest.mark.filterwarnings("ignore:the labels of 'label' in .*set.parquet")  # numbers with gaps are told
@pytest.mark.parametrize("oddity", SETS)
@pytest.mark.parametrize("reader", READERS)
def test_the_same_images_and_classes(reader, oddity, tmp_path):
    pictures = SETS[oddity]()
    kinds = kinds_of(pictures)
    if reader == "npz":
        images = NpzImages(write_npz(tmp_path / "set.npz", pictures, kinds))
        assert images.size == SIDE
    else:
        images = read_by(reader, tmp_path, pictures, errors="defer")
        assert (list(images.classes), images.labels.dtype) == (kinds, torch.int64)
    assert seen(images, kinds) == shown(pictures)


def hidden(root):
    """What macOS, notebooks and network disks leave."""
    for name in ("cat/._a.png", "__MACOSX/cat/a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "dog/.x/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not an image")
    (root / ".DS_Store").write_bytes(b"")
    (root / "lost+found").mkdir()


def other_files(root):
    (root / "README.md").write_text("these are pets")
    (root / "metadata.csv").write_text("file_name,text\ncat/a.png,a cat\n")
    (root / "cat" / "a.xml").write_text("<cat/>")


def below(root):
    """The images of each class in folders of the same name but for the first one, as front and back of all."""
    for kind in ("cat", "dog"):
        for name, side in (("a.png", "front"), ("b.png", "back")):
            (root / kind / side).mkdir()
            (root / kind / name).rename(root / kind / side / name)


def linked_classes(root):
    """Class folders that are links to folders of other names."""
    for number, kind in enumerate(("cat", "dog")):
        (root / f".store/{number}").mkdir(parents=True)
        (root / kind).rename(root / f".store/{number}/images")
        (root / kind).symlink_to(Path(f".store/{number}/images"), target_is_directory=True)


def linked_images(root):
    (root / ".store").mkdir()
    (root / "cat" / "a.png").rename(root / ".store" / "x.png")
    (root / "cat" / "a.png").symlink_to("../.store/x.png")
    os.link(root / "dog" / "b.png", root / ".store" / "y.png")


@pytest.mark.parametrize("litter", [hidden, other_files, below, linked_classes, linked_images])
@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_what_else_a_folder_holds_changes_nothing(reader, litter, tmp_path):
    pictures = pictures_of(("cat", "dog"))
    images = read_by(reader, tmp_path, pictures, litter=litter, errors="defer")
    assert images.classes == ("cat", "dog")
    assert seen(images, images.classes) == shown(pictures)


def other_images(root):
    (root / "cat" / "a.heic").write_bytes(b"")
    (root / "b.CR2").write_bytes(b"")


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_images_that_are_not_read_are_told(reader, tmp_path):
    with pytest.warns(
        UserWarning, match="set.* also holds images of kinds that are not read, .cr2, .heic; convert them"
    ):
        assert len(read_by(reader, tmp_path, pictures_of(("cat", "dog")), litter=other_images)) == 4


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_synsets_in_the_names_of_images_are_classes(reader, tmp_path):
    pictures = [picture(".", f"n0144076{i % 2}_{i}.JPEG", i) for i in range(4)]
    images = read_by(reader, tmp_path, pictures, errors="defer")
    assert images.classes == ("n01440760", "n01440761")
    named = [one._replace(kind=one.name[:9]) for one in pictures]
    assert seen(images, images.classes) == shown(named)


@pytest.mark.parametrize("above", ["./", "photos/", "./photos/", "a/b c/", "train/", "/data/photos/"])
def test_what_lies_above_the_classes_of_a_tar_is_no_class(above, tmp_path):
    pictures = pictures_of(("cat", "dog"))
    images = open_images(write_tar(tmp_path / "set.tar", pictures, below, above), SIDE)
    assert images.classes == ("cat", "dog")
    assert seen(images, images.classes) == shown(pictures)


def empty_class(root):
    (root / "emu" / "sub").mkdir(parents=True)


def loose(root):
    (root / "loose.png").write_bytes(picture("", "").data)


def splits(root):
    for name, split in (("cat", "train"), ("dog", "val")):
        (root / split).mkdir()
        (root / name).rename(root / split / name)


def nowhere(root):
    (root / "cat" / "0.png").symlink_to("nowhere.png")


REFUSED = {
    empty_class: "no image that can be read in .* for class emu; add images, or remove the class",
    loose: "has 1 images beside the class folders cat, dog",
    splits: "holds the splits train, val, not classes",
    nowhere: r"cat/0.png .*cannot be read \(.*\); repair or remove it, or pass errors='skip' or 'replace'",
}


@pytest.mark.parametrize("litter", REFUSED)
@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_the_same_is_refused(reader, litter, tmp_path):
    def read():
        images = read_by(reader, tmp_path, pictures_of(("cat", "dog")), litter=litter, errors="defer")
        seen(images, images.classes)

    with pytest.raises(ValueError, match=REFUSED[litter]):
        read()


def test_a_class_without_images_is_refused_by_tables_too(tmp_path):
    pictures = pictures_of(("cat", "dog"))
    place = write_hub(tmp_path / "saved", pictures, ["cat", "dog", "emu"])
    with pytest.raises(ValueError, match=REFUSED[empty_class]):
        open_images(place, SIDE)
    assert open_images(place, SIDE, labels="none").classes == ("images",)


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_images_without_labels_are_read_from_folders_with_an_empty_class(reader, tmp_path):
    pictures = pictures_of(("cat", "dog"))
    images = read_by(reader, tmp_path, pictures, litter=empty_class, labels="none")
    assert (images.classes, images.labels.tolist()) == (("images",), [0] * 4)
    assert [pixels for _, pixels in seen(images, images.classes)] == sorted(pixels for _, pixels in shown(pictures))


@pytest.mark.parametrize("reader", ["folder", "tar", "parquet", "hub"])
def test_no_labels_is_one_class(reader, tmp_path):
    pictures = [picture(".", f"{i}.png", i) for i in range(3)]
    if reader in ("folder", "tar"):
        images = read_by(reader, tmp_path, pictures)
    else:
        unknown = [one._replace(kind="-1") for one in pictures]
        with pytest.raises(ValueError, match="3 of 3 images in .* have no 'label', as in test splits; .*labels 'none'"):
            open_images(write_parquet(tmp_path / "unknown.parquet", unknown), SIDE)
        images = read_by(reader, tmp_path, pictures, labels="none")
    assert (images.classes, images.labels.tolist()) == (("images",), [0, 0, 0])
    assert [pixels for _, pixels in seen(images, images.classes)] == sorted(pixels for _, pixels in shown(pictures))


@pytest.mark.parametrize("reader", ["folder", "tar", "parquet", "hub"])
@pytest.mark.parametrize("content", ["nothing", "text", "half"])
def test_broken_files_are_left_out_or_named(reader, content, tmp_path):
    pictures = pictures_of(("cat", "dog"))
    data = {"nothing": b"", "text": b"no image", "half": pictures[0].data[:60]}[content]
    broken = [pictures[0]._replace(data=data), *pictures[1:]]
    images = read_by(reader, tmp_path / "defer", broken, errors="defer")
    with pytest.raises(ValueError, match=r"(a.png|row 0).* cannot be read \(.+\); repair or remove it, or pass errors"):
        images.images(torch.arange(4))
    with pytest.warns(UserWarning, match="1 of 4 images in .* cannot be read: .*they are skipped"):
        images = read_by(reader, tmp_path / "skip", broken, errors="skip")
    assert images.classes == ("cat", "dog")
    assert seen(images, images.classes) == shown(pictures[1:])


@pytest.mark.parametrize("reader", ["folder", "tar", "parquet"])
def test_two_spellings_of_one_name_are_one_class(reader, tmp_path):
    pictures = [picture(kind, f"{i}.png", i) for i, kind in enumerate(("\u00e9", "f", "e\u0301"))]
    images = read_by(reader, tmp_path, pictures, errors="defer")
    assert (images.classes, sorted(images.labels.tolist())) == (("f", "\u00e9"), [0, 1, 1])
    assert seen(images, images.classes) == shown(pictures)
