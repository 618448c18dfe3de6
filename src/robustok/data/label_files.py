"""Files that tell the class of each image of a folder without sub-folders, as people and programs write them.

    a table      CSV, TSV or text, the delimiter found out: image and class, or columns of a header that say which is
                 which; as Kaggle's `LOC_val_solution.csv` (the class, then boxes of four numbers), ImageNet's `val.txt`
    one a line   as many lines as there are images, a class each, in the order of the images' names
                 (`imagenet_2012_validation_synset_labels.txt`)
    JSON         {image: class}, records with a name and a class (also one a line, as `metadata.jsonl` of Hugging Face),
                 or pairs, as in StyleGAN's `dataset.json`

An image may be told by its path, with any folders before it, or without its suffix. What is told of other images is
left out; of an image's class, all of it counts.
"""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from robustok.data.classes import WHOLE, Classes, classes_of, is_missing, one_spelling
from robustok.data.file_names import SUFFIXES, some
from robustok.data.label_tables import LABELS, NAMES, TABLES, Row, is_header, ways_to_read

# fmt: off
OTHERS = (  # columns that are no classes
    "text", "caption", "captions", "prompt", "split", "bbox", "url", "md5", "width", "height", "size",
)
# fmt: on
BOXES = re.compile(r"(\S+)( +-?[\d.]+){4}( +\S+( +-?[\d.]+){4})*")  # a class and its box, and others
SEVERAL = re.compile(r"-?[\d.]+([ ,;\t]+-?[\d.]+)+")


def told_by(file: Path, names: Sequence[str], place: str) -> Classes:
    """Classes and labels of the images `names` of a `place`. Raises ValueError where the file does not tell them."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}; give the file that tells the class of each image in {place}")
    images = _Images(names)
    ways, best, most = [], list[Row](), 0
    for rows in ways_to_read(file, images.split, not any(name.startswith("#") for name in names)):
        ways.append(rows)
        telling = sum(images.tells(row) for row in rows)
        if telling > most:
            best, most = rows, telling
        if most and most >= len(rows) - 1:  # all but a header
            break
    if best:
        return _paired(file, best, images, place)
    lines = ways[0] if file.suffix.lower() in TABLES else ways[-1]
    if not lines:
        raise ValueError(f"{file} tells nothing; write a line for each image in {place}: its name and its class")
    return _one_a_line(file, lines, images, place)


class _Images:
    """The images of a folder, to be found by what a file calls them."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._exact = {_key(name): index for index, name in enumerate(names)}
        self._blank = any(len(name.split()) > 1 for name in names)
        self._stems: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            self._stems.setdefault(_stem(_key(name)), []).append(index)

    def exact(self, told: str) -> int | None:
        """The image of this very name, whatever folders are told before it."""
        return self._exact.get(_key(told))

    def close(self, told: str) -> list[int]:
        """The images of this name but for the suffix."""
        return self._stems.get(_stem(_key(told)), [])

    def knows(self, told: str) -> bool:
        key = _key(told)
        return key in self._exact or _stem(key) in self._stems

    def tells(self, row: Row) -> bool:
        """Tell whether a row has an image and something else."""
        return len(row.fields) > 1 and any(self.knows(str(field)) for field in row.fields if field is not None)

    def split(self, line: str) -> list[str]:
        """A line of an image and, after blanks, its class, both of which may hold blanks; else the line as it is."""
        line = line.strip()
        blanks = re.finditer(r"\s+", line)
        called = [line[: blank.start()] for blank in (blanks if self._blank else islice(blanks, 1))]
        known = [name for name in called if self.exact(name) is not None] or list(filter(self.knows, called))
        if not known:
            known = [name for name in called if _has_suffix(name)][:1]  # an image that lies elsewhere
        if not known:
            return [line]
        name = max(known, key=len)
        return [name, line[len(name) :].strip().strip("\"'")]


def _paired(file: Path, rows: list[Row], images: _Images, place: str) -> Classes:
    """Classes from rows of an image and its class."""
    header, rows = _header(file, rows, images)
    name, label = _columns(file, header, rows, images)
    told: dict[int, tuple[Any, Row]] = {}
    loosely: dict[int, tuple[Any, Row]] = {}  # by the name but for the suffix
    for row in rows:
        if len(row.fields) <= max(name, label):
            raise ValueError(f"{row.where} of {file} has no class: {row.text}; write the image and its class")
        value, called = row.fields[label], str(row.fields[name])
        exact, close = images.exact(called), images.close(called)
        whole = _has_suffix(called)
        if exact is None and len(close) > 1 and not whole:
            raise ValueError(
                f"{row.where} of {file} may mean {some([images.names[i] for i in close])}; write whole file names"
            )
        if exact is None and len(close) != 1:
            continue  # another image, which lies elsewhere
        index = close[0] if exact is None else exact
        before = (loosely if exact is None and whole else told).setdefault(index, (value, row))
        if before[1] is not row and before[0] != value:
            raise ValueError(
                f"{file} tells two classes of {images.names[index]}: {before[0]} ({before[1].where}) and {value} "
                f"({row.where}); keep one"
            )
    told = loosely | told
    missing = [image for index, image in enumerate(images.names) if index not in told or is_missing(told[index][0])]
    if missing:
        raise ValueError(
            f"{file} tells no class of {len(missing)} of {len(images.names)} images in {place}: {some(missing)}; "
            "add them to the file, or move them elsewhere"
        )
    return classes_of(_whole([told[index][0] for index in range(len(images.names))], file), str(file))


def _one_a_line(file: Path, rows: list[Row], images: _Images, place: str) -> Classes:
    """Classes from rows of one class each, in the order of the images. Raises ValueError for another number of rows."""
    count, remedy = len(images.names), "write lines of an image and its class, divided by a comma"
    first = rows[0]
    if len(rows) == count + 1 and str(first.fields[0]).strip().lower() in LABELS:
        rows = rows[1:]
    named = next((row for row in rows if any(suffix in row.text.lower() for suffix in SUFFIXES)), None)
    if all(images.knows(row.text) and not WHOLE.fullmatch(row.text) for row in rows):
        named = first
    if named or any(len(row.fields) > 1 for row in rows):
        row = named or first
        raise ValueError(
            f"{file} tells no class of {count} of {count} images in {place}: {some(list(images.names))}; its "
            f"{row.where} is {row.text}: {remedy}"
        )
    if len(rows) != count:
        raise ValueError(
            f"{file} has {len(rows)} lines of a class each, but there are {count} images in {place}; {remedy}, or as "
            "many classes as there are images"
        )
    empty = next((row for row in rows if is_missing(row.fields[0])), None)
    if empty:
        raise ValueError(f"{empty.where} of {file} is {empty.text}, which is no class; {remedy}")
    return classes_of([row.fields[0] for row in rows], str(file))


def _header(file: Path, rows: list[Row], images: _Images) -> tuple[list[str] | None, list[Row]]:
    """The names of columns, where the first row has them, and the rows of images. Raises ValueError for longer rows."""
    if rows[0].columns is not None:
        return list(rows[0].columns), rows
    if not is_header(rows[0].fields) or images.tells(rows[0]):
        return None, rows
    header, rows = [str(field).strip() for field in rows[0].fields], rows[1:]
    longer = next((row for row in rows if any(row.fields[len(header) :])), None)
    if longer:
        raise ValueError(
            f"{longer.where} of {file} has more fields than the {len(header)} columns {', '.join(header)}: "
            f"{longer.text}; put names that hold delimiters into quotes"
        )
    return header, rows


def _columns(file: Path, header: list[str] | None, rows: list[Row], images: _Images) -> tuple[int, int]:
    """The columns of the image and of its class. Raises ValueError where it is not plain which they are."""
    width = len(header or max((row.fields for row in rows), key=len))
    known = [
        sum(column < len(row.fields) and images.knows(str(row.fields[column])) for row in rows)
        for column in range(width)
    ]
    lower = [column.lower() for column in header or ()]
    usual = [lower.index(called) for called in NAMES if called in lower and known[lower.index(called)]]
    name = usual[0] if usual else known.index(max(known))
    called = next((lower.index(column) for column in LABELS if column in lower and lower.index(column) != name), None)
    if called is not None and lower.count(lower[called]) == 1:
        return name, called
    filled = {column for row in rows for column, field in enumerate(row.fields) if field not in (None, "")}
    others = [column for column in range(width) if column != name and column in filled]
    if len(others) != 1 or (header and lower[others[0]] in OTHERS):
        there = f"the columns {', '.join(header)}" if header else f"{width} columns without names"
        raise ValueError(
            f"{file} has {there}, as in {rows[0].where}: {rows[0].text}; call the column of classes 'label' in a first "
            "line of names, keep only image and class, or put names that hold delimiters into quotes"
        )
    return name, others[0]


def _whole(values: list[Any], file: Path) -> list[Any]:
    """Classes without the boxes that are told with them. Raises ValueError for several numbers and no class."""
    found = [BOXES.fullmatch(value.strip()) if isinstance(value, str) else None for value in values]
    if any(found) and all(box or len(str(value).split()) == 1 for box, value in zip(found, values, strict=True)):
        return [box[1] if box else value for box, value in zip(found, values, strict=True)]
    several = next((value for value in values if isinstance(value, str) and SEVERAL.fullmatch(value.strip())), None)
    if several is not None:
        raise ValueError(f"{file} has several numbers for one image, {several:.40}; keep the one that is its class")
    return values


def _key(told: str) -> str:
    """The name of a file in what tells it: no folders, no quotes, one way to write accents."""
    return one_spelling(told.strip().strip("\"'").replace("\\", "/").rstrip("/").rpartition("/")[2])


def _has_suffix(told: str) -> bool:
    return _key(told).lower().endswith(SUFFIXES)


def _stem(key: str) -> str:
    return key[: key.rindex(".")] if key.lower().endswith(SUFFIXES) else key
