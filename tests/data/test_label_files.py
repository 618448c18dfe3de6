"""Files that tell the classes of images, as people and programs write them: what each tells, and what it is asked."""

import json

import pytest
import torch

from robustok.data.label_files import told_by

ABC = ("a.png", "b.png", "c.png")
PETS = ["golden retriever", "golden eagle", "golden retriever"]
SHORT = ["cat", "dog", "cat"]


def told(tmp_path, name, text, names=ABC):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    classes, labels = told_by(file, names, "photos")
    assert labels.dtype == torch.int64
    return [classes[label] for label in labels.tolist()]


def lines(delimiter, kinds=SHORT, names=ABC, end="\n"):
    return "".join(f"{name}{delimiter}{kind}{end}" for name, kind in zip(names, kinds, strict=True))


RECORDS = [{"file_name": name, "split": "x", "label": kind} for name, kind in zip(ABC, PETS, strict=True)]
PAIRS = [list(pair) for pair in zip(ABC, PETS, strict=True)]

READ = {
    # classes of several words
    "words.csv": (lines(",", PETS), PETS),
    "words.tsv": (lines("\t", PETS), PETS),
    "words.txt": (lines(" ", PETS), PETS),
    "tabs.txt": (lines("\t", PETS), PETS),
    "several-tabs.txt": (lines("\t\t", PETS), PETS),
    "no-suffix": (lines("  ", PETS), PETS),
    "stems.txt": (lines(" ", PETS, ("a", "b", "c")), PETS),
    "one-a-line.txt": ("\n".join(PETS), PETS),
    "one-a-line-with-numbers.txt": ("3 wheeler\n4 wheeler\n3 wheeler\n", ["3 wheeler", "4 wheeler", "3 wheeler"]),
    "quoted.txt": ('"a.png" "golden retriever"\n"b.png" "golden eagle"\n\'c.png\' \'golden retriever\'\n', PETS),
    # delimiters
    "commas.txt": (lines(","), SHORT),
    "semicolons.csv": (lines(";", ["a, b", "dog", "dog"]), ["a, b", "dog", "dog"]),
    "bars.txt": (lines(" | ", PETS), PETS),
    "commas-and-blanks.csv": (lines(", "), SHORT),
    "quotes.csv": (
        'a.png,"tench, Tinca tinca"\nb.png,"5"" pipe"\nc.png,5" pipe\n',
        ["tench, Tinca tinca", '5" pipe', '5" pipe'],
    ),
    "commas-in-classes.txt": (lines(" ", ["tench, Tinca", "dog", "dog"]), ["tench, Tinca", "dog", "dog"]),
    "classes-with-commas.txt": (
        "tench, Tinca\ndog, Canis\ntench, Tinca\n",
        ["tench, Tinca", "dog, Canis", "tench, Tinca"],
    ),
    "one-a-line.csv": ('label\n"tench, Tinca"\ndog\ndog\n', ["tench, Tinca", "dog", "dog"]),
    # encodings and ends of lines
    "bom.csv": (b"\xef\xbb\xbf" + lines(",", end="\r\n").encode(), SHORT),
    "utf16.csv": (lines(",").encode("utf-16"), SHORT),
    "cr.csv": (lines(",", end="\r"), SHORT),
    "separators.csv": (lines(",", ["x\u2028y", "z\x0b", "z\x85w"]), ["x\u2028y", "z", "z\x85w"]),
    "empty-lines.csv": ("\n\na.png,cat\n\n,\n  \nb.png,dog\nc.png,cat\n\n", SHORT),
    "comments.txt": ("# image class\n" + lines(" "), SHORT),
    "comments.csv": ("# by x, y\nimage,label\n" + lines(","), SHORT),
    # columns
    "header.csv": ("image,split,label\na.png,train,cat\nb.png,val,dog\nc.png,train,cat\n", SHORT),
    "case.csv": ("Class,Image_ID\ncat,a\ndog,b\ncat,c\n", SHORT),
    "metadata.csv": ('file_name,text,label\na.png,"a, b",cat\nb.png,x,dog\nc.png,,cat\n', SHORT),
    "both.csv": ("image,class,label\na.png,x,cat\nb.png,y,dog\nc.png,z,cat\n", SHORT),
    "pandas.csv": (",image,label\n0,a.png,cat\n1,b.png,dog\n2,c.png,cat\n", SHORT),
    "class-first.csv": ("cat,a.png\ndog,b.png\ncat,c.png\n", SHORT),
    "unknown-names.csv": ("bild,klasse\n" + lines(","), SHORT),
    "empty-column.csv": ("image,label,\na.png,cat,\nb.png,dog,\nc.png,cat,\n", SHORT),
    "header.txt": ("image label\n" + lines(" ", PETS), PETS),
    "wide-header.txt": ("image split label\na.png train cat\nb.png val dog\nc.png train cat\n", SHORT),
    "LOC_val_solution.csv": ("ImageId,PredictionString\na,cat 1 2 3 4 n05 5 6 7 8 \nb,dog 1 2 3 4 \nc,cat\n", SHORT),
    # names of images
    "folders.csv": ("./a.png,cat\nval/x/b.png,dog\n/data/c.png,cat\n", SHORT),
    "backslashes.csv": ("val\\a.png,cat\nC:\\b.png,dog\n.\\c.png,cat\n", SHORT),
    "other-suffixes.csv": ("a.jpg,cat\nb.JPEG,dog\nc.PNG,cat\n", SHORT),
    "others-too.csv": ("z.png,emu\n" + lines(",") + "y.png,emu\n", SHORT),
    "twice.csv": (lines(",") + lines(","), SHORT),
    # JSON
    "map.json": (json.dumps(dict(PAIRS)), PETS),
    "records.json": (json.dumps(RECORDS), PETS),
    "by-name.json": (json.dumps({r["file_name"]: {"label": r["label"]} for r in RECORDS}), PETS),
    "by-class.json": (json.dumps({"cat": ["a.png", "c.png"], "dog": ["b.png"]}), SHORT),
    "columns.json": (json.dumps({"file_name": ABC, "label": PETS}), PETS),
    "pairs.json": (json.dumps(PAIRS), PETS),
    "dataset.json": (json.dumps({"labels": [[f"00000/{name}", kind] for name, kind in PAIRS]}), PETS),
    "classes.json": (json.dumps(PETS), PETS),
    "metadata.jsonl": ("\n".join(map(json.dumps, RECORDS)), PETS),
    "separators.jsonl": ("\n".join(f'{{"image": "{n}", "label": "x\u2028y"}}' for n in ABC), ["x\u2028y"] * 3),
    # numbers
    "floats.csv": ("image,label\na.png,1.0\nb.png,0.0\nc.png,2.0\n", ["1", "0", "2"]),
    "order.csv": (lines(",", range(3)), ["0", "1", "2"]),
    "iso-dates.csv": (
        lines(",", ["2024-01-02", "2024-01-01", "2024-01-02"]),
        ["2024-01-02", "2024-01-01", "2024-01-02"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_file_tells(name, tmp_path):
    text, kinds = READ[name]
    assert told(tmp_path, name, text) == kinds


@pytest.mark.parametrize(
    ("names", "text", "kinds"),
    [
        (("1.jpg", "1.png", "2.png"), "1.png,cat\n1.jpg,dog\n2,cat\n", ["dog", "cat", "cat"]),
        (("1.png", "2.png"), "1.png,cat\n1.jpg,dog\n2.png,dog\n", ["cat", "dog"]),  # 1.jpg lies elsewhere
        (("my cat.png", "my dog 1.png"), "my cat.png golden cat\nmy dog 1.png dog\n", ["golden cat", "dog"]),
        (("a, b.png", "c.png"), '"a, b.png",cat\nc.png,dog\n', ["cat", "dog"]),
        (("\u00e9.png", "b.png"), "e\u0301.png,cafe\u0301\nb.png,caf\u00e9\n", ["caf\u00e9"] * 2),  # two ways to write
        (("#1.png", "#2.png"), "#1.png,cat\n#2.png,dog\n", ["cat", "dog"]),
        (("img.v1.png", "img.v2.png"), "img.v1,cat\nimg.v2,dog\n", ["cat", "dog"]),
        (("1.png", "2.png"), "image,label\n1,1\n2,0\n", ["1", "0"]),
        (("0.png", "1.png"), "1\n0\n", ["1", "0"]),  # numbers alone are classes
        (("1.png", "2.png"), json.dumps([{"image_id": 1, "label": "x"}, {"image_id": 2, "label": "y"}]), ["x", "y"]),
    ],
)
def test_images_are_found_by_what_they_are_called(names, text, kinds, tmp_path):
    assert told(tmp_path, "told.json" if text.startswith("[") else "told.csv", text, names) == kinds


REFUSED = {
    "which-column.csv": ("image,split,set\na.png,x,y\nb.png,x,y\nc.png,x,y\n", "columns image, split, set, .* 'label'"),
    "no-header.csv": (
        "a.png,cat,train\nb.png,dog,val\nc.png,dog,val\n",
        "3 columns without names, as in line 1: .*'label'",
    ),
    "captions.jsonl": ('{"file_name": "a.png", "text": "a cat"}', "the columns file_name, text, .* 'label'"),
    "one-hot.csv": ("image,cat,dog\na.png,1,0\nb.png,0,1\nc.png,1,0\n", "the columns image, cat, dog, .*'label'"),
    "bare-commas.csv": (
        "image,label\na.png,tench, Tinca\nb.png,x\nc.png,x\n",
        "line 2 of .* more fields than .* into quotes",
    ),
    "open-quote.csv": ('a.png,"tench\nb.png,dog\nc.png,cat\n', "no whole table .unexpected end of data.; mend its"),
    "lines.txt": ("cat\ndog\n", "has 2 lines of a class each, but there are 3 images in photos; write"),
    "names.txt": ("a.png\nb.png\nc.png\n", "tells no class of 3 of 3 images .* line 1 is a.png: write"),
    "stems.txt": ("a\nb\nc\n", "tells no class of 3 of 3 images .* line 1 is a: write"),
    "colons.txt": (lines(": "), "tells no class of 3 of 3 images .* line 1 is a.png: cat: write .* divided by a comma"),
    "class-first.txt": (
        "cat a.png\ndog b.png\ncat c.png\n",
        "line 1 is cat a.png: write lines of an image and its class",
    ),
    "indices.txt": ("0 0\n1 1\n2 0\n", "tells no class of 3 of 3 images .* line 1 is 0 0: write .* divided by a comma"),
    "indices-and-names.txt": ("1 cat\n2 dog\n3 cat\n", "line 1 is 1 cat: write lines of an image and its class"),
    "one-hot.txt": ("1 0\n0 1\n1 0\n", "line 1 is 1 0: write lines of an image and its class"),
    "attributes.txt": (lines(" ", ["1 -1 1"] * 3), "has several numbers for one image, 1 -1 1; keep the one"),
    "two-classes.csv": (
        lines(",") + "a.png,dog\n",
        "tells two classes of a.png: cat .line 1. and dog .line 4.; keep one",
    ),
    "no-class.csv": ("image,label\na.png,cat\nb.png\nc.png,cat\n", "line 3 of .* has no class: b.png; write"),
    "absent.csv": ("a.png,cat\nb.png,dog\n", "tells no class of 1 of 3 images in photos: c.png; add them"),
    "empty.csv": (lines(",", ["cat", "", "nan"]), "tells no class of 2 of 3 images in photos: b.png, c.png; add them"),
    "unknown.csv": (lines(",", [-1] * 3), "tells no class of 3 of 3 images in photos: a.png, b.png, c.png; add"),
    "negative.csv": (lines(",", [-2, 0, 1]), "has the label -2; number classes from 0, or name them"),
    "fractions.csv": (lines(",", [0.5, 1, 0.25]), "holds the fraction 0.5; wanted a class: a whole number or a name"),
    "lists.json": ('{"a.png": [1, 2], "b.png": [1], "c.png": [2]}', r"holds \[1, 2\] for one image; wanted one class"),
    "coco.json": ('{"images": [{"id": 1}], "annotations": []}', "tells no class of 3 of 3 images in photos: "),
    "no-labels.json": ('{"labels": null}', "tells no class of 3 of 3 images in photos: "),
    "null.json": ('["cat", null, "dog"]', "entry 2 of .* is None, which is no class; write lines of an image and its"),
    "not-a-number.json": ('{"a.png": NaN, "b.png": 1, "c.png": 0}', "tells no class of 1 of 3 images in photos: a.png"),
    "deep.json": ("[" * 10_000, "is neither JSON nor JSON lines .it is nested too deeply.; mend it"),
    "name-twice.json": (
        '{"a.png": "cat", "a.png": "dog", "b.png": "dog", "c.png": "cat"}',
        "tells two classes of a.png: cat .entry 1. and dog .entry 2.; keep one",
    ),
    "column-twice.csv": ("image,label,label\na.png,1,0\nb.png,0,1\nc.png,0,0\n", "the columns image, label, label, as"),
    "long.csv": (lines(",", ["9" * 5000, 1, 0]), "holds the number 9{99}; wanted a class: a whole number or a name"),
    "cut.json": ("{", "is neither JSON nor JSON lines .*; mend it"),
    "number.json": ("3", "tells no classes in a way that is known; write"),
    "latin.csv": ("a.png,caf\xe9\n".encode("latin-1"), "is no text in UTF-8 .line 1.; save it as CSV in UTF-8"),
    "table.xlsx": (b"PK\3\4\0\0", "is no text, for it holds zero bytes; save it as CSV"),
    "commas.csv": (",\n,", "tells nothing; write a line for each image in photos"),
    "nothing.csv": ("\n\n", "tells nothing; write a line for each image in photos"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_is_asked(name, tmp_path):
    text, match = REFUSED[name]
    with pytest.raises(ValueError, match=match) as error:
        told(tmp_path, name, text)
    assert name in str(error.value)


def test_a_name_without_suffix_may_mean_two_images(tmp_path):
    with pytest.raises(ValueError, match="line 1 of .*l.csv may mean 1.jpg, 1.png; write whole file names"):
        told(tmp_path, "l.csv", "1,cat\n2,dog\n", ("1.jpg", "1.png", "2.png"))


def test_numbers_far_apart_are_each_a_class_and_gaps_are_told(tmp_path):
    with pytest.warns(
        UserWarning, match="l.csv are 3 different numbers up to 20240103: each is a class, and labels count"
    ):
        assert told(tmp_path, "l.csv", lines(",", [20240103, 20240101, 20240102])) == [
            "20240103",
            "20240101",
            "20240102",
        ]
    with pytest.warns(UserWarning, match=f"3 different numbers up to {2**70}"):
        assert told(tmp_path, "l.csv", lines(",", [2**70, 2**64, 0])) == [str(2**70), str(2**64), "0"]
    with pytest.warns(UserWarning, match="l.csv go up to 3, but no image has 0: these are classes without images"):
        assert told(tmp_path, "l.csv", lines(",", [1, 2, 3])) == ["1", "2", "3"]
