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

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from robustok.data.classes import WHOLE, Classes, classes_of, is_missing, one_spelling
from robustok.data.file_names import SUFFIXES
from robustok.runtime.checkpoint import parse_json
from robustok.runtime.words import some

# fmt: off
NAMES = (  # of a column of images
    "file_name", "filename", "file", "image", "images", "img", "image_name", "imagename", "image_file", "image_path",
    "img_name", "img_path", "file_path", "filepath", "path", "image_id", "imageid", "name", "id", "key",
)
LABELS = (  # of a column of classes, the first that is there being meant
    "label", "labels", "class", "classes", "cls", "class_name", "classname", "label_name", "category", "target",
    "synset", "wnid", "class_id", "classid", "label_id", "category_id", "class_label", "predictionstring", "y",
)
OTHERS = (  # columns that are no classes
    "text", "caption", "captions", "prompt", "split", "bbox", "url", "md5", "width", "height", "size",
)
# fmt: on
DELIMITERS = (",", "\t", ";", "|")
TABLES = {".csv": ",", ".tsv": "\t"}
LONGEST = 80  # characters of a row that an error shows
BOXES = re.compile(r"(\S+)( +-?[\d.]+){4}( +\S+( +-?[\d.]+){4})*")  # a class and its box, and others
SEVERAL = re.compile(r"-?[\d.]+([ ,;\t]+-?[\d.]+)+")


class LabelRow(NamedTuple):
    """One row of a file."""

    fields: list[Any]
    where: str  # "line 3"
    columns: tuple[str, ...] | None = None  # the names of the fields, where each row tells them

    @property
    def text(self) -> str:
        """The row as errors show it."""
        return ", ".join(str(field) for field in self.fields)[:LONGEST]


def told_by(file: Path, names: Sequence[str], place: str) -> Classes:
    """Classes and labels of the images `names` of a `place`. Raises ValueError where the file does not tell them."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}; give the file that tells the class of each image in {place}")
    images = _Images(names)
    ways, best, most = [], list[LabelRow](), 0
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
        """The images of this name, or but for the suffix."""
        return self._stems.get(_stem(_key(told)), [])

    def tells(self, row: LabelRow) -> bool:
        """Tell whether a row has an image and something else."""
        return len(row.fields) > 1 and any(self.close(str(field)) for field in row.fields if field is not None)

    def split(self, line: str) -> list[str]:
        """A line of an image and, after blanks, its class, both of which may hold blanks; else the line as it is."""
        line = line.strip()
        blanks = re.finditer(r"\s+", line)
        called = [line[: blank.start()] for blank in (blanks if self._blank else islice(blanks, 1))]
        known = [name for name in called if self.exact(name) is not None] or list(filter(self.close, called))
        known = known or [name for name in called if _has_suffix(name)][:1]  # an image that lies elsewhere
        if not known:
            return [line]
        name = max(known, key=len)
        return [name, line[len(name) :].strip().strip("\"'")]


def _paired(file: Path, rows: list[LabelRow], images: _Images, place: str) -> Classes:
    """Classes from rows of an image and its class."""
    header, rows = _header(file, rows, images)
    name, label = _columns(file, header, rows, images)
    told: dict[int, tuple[Any, LabelRow]] = {}
    loosely: dict[int, tuple[Any, LabelRow]] = {}  # by the name but for the suffix
    for row in rows:
        if len(row.fields) <= max(name, label):
            raise ValueError(f"{row.where} of {file} has no class: {row.text}; write the image and its class")
        value, called = row.fields[label], str(row.fields[name])
        exact, whole = images.exact(called), _has_suffix(called)
        found = images.close(called) if exact is None else [exact]
        if len(found) > 1 and not whole:
            raise ValueError(
                f"{row.where} of {file} may mean {some([images.names[i] for i in found])}; write whole file names"
            )
        if len(found) != 1:
            continue  # another image, which lies elsewhere
        index = found[0]
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


def _one_a_line(file: Path, rows: list[LabelRow], images: _Images, place: str) -> Classes:
    """Classes from rows of one class each, in the order of the images. Raises ValueError for another number of rows."""
    count, remedy = len(images.names), "write lines of an image and its class, divided by a comma"
    first = rows[0]
    if len(rows) == count + 1 and str(first.fields[0]).strip().lower() in LABELS:
        rows = rows[1:]
    named = next((row for row in rows if any(suffix in row.text.lower() for suffix in SUFFIXES)), None)
    if all(images.close(row.text) and not WHOLE.fullmatch(row.text) for row in rows):
        named = first
    if named or any(len(row.fields) > 1 for row in rows) or _numbered(rows):
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


def _numbered(rows: list[LabelRow]) -> bool:
    """Tell whether rows are of several numbers, or each of a number of its own and a class, divided by a blank."""
    texts = [row.text.strip() for row in rows]
    numbers = {text.split()[0] for text in texts if len(text.split()) > 1 and WHOLE.fullmatch(text.split()[0])}
    return any(map(SEVERAL.fullmatch, texts)) or len(numbers) == len(rows) > 1


def _header(file: Path, rows: list[LabelRow], images: _Images) -> tuple[list[str] | None, list[LabelRow]]:
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


def _columns(file: Path, header: list[str] | None, rows: list[LabelRow], images: _Images) -> tuple[int, int]:
    """The columns of the image and of its class. Raises ValueError where it is not plain which they are."""
    width = len(header or max((row.fields for row in rows), key=len))
    known = [
        sum(len(row.fields) > at and bool(images.close(str(row.fields[at]))) for row in rows) for at in range(width)
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


def ways_to_read(file: Path, split: Callable[[str], list[str]], comments: bool) -> Iterator[list[LabelRow]]:
    """The rows of a file in each way in which a row may be divided: that of a table's suffix first, by blanks last.

    `split` divides a line by blanks. Empty lines are left out and, with `comments`, lines that begin with #. Raises
    ValueError for a file that is no text, or a table whose quotes do not match.
    """
    text, suffix = _text(file), file.suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson"):
        yield _of_json(file, text)
        return
    lines = ["" if comments and line.startswith("#") else line for line in re.split(r"\r\n|\r|\n", text)]
    for delimiter in sorted(DELIMITERS, key=lambda delimiter: delimiter != TABLES.get(suffix)):
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True, skipinitialspace=True)
        try:
            rows = [LabelRow([field.strip() for field in fields], f"line {reader.line_num}") for fields in reader]
        except csv.Error as error:
            if delimiter == TABLES.get(suffix):
                raise ValueError(f"{file} is no whole table ({error}); mend its quotes") from error
            continue
        yield [row for row in rows if any(row.fields)]
    yield list(_by_blanks(lines, split))


def is_header(fields: Sequence[Any]) -> bool:
    """Tell whether these are names of columns."""
    lower = {str(field).strip().lower() for field in fields}
    return bool(lower & {*NAMES, *LABELS})


def _by_blanks(lines: list[str], split: Callable[[str], list[str]]) -> Iterator[LabelRow]:
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    titles = filled[0][1].split() if filled else []
    table = len(titles) > 1 and {titles[0].lower()} <= {*NAMES} and is_header(titles[1:])
    for index, (number, line) in enumerate(filled):
        whole = table and (index == 0 or len(titles) > 2)  # else a class may hold blanks
        yield LabelRow(line.split() if whole else split(line), f"line {number}")


def _text(file: Path) -> str:
    data = file.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{file} is no text in UTF-8 (line {line}); save it as CSV in UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{file} is no text, for it holds zero bytes; save it as CSV in UTF-8")
    return text


def _of_json(file: Path, text: str) -> list[LabelRow]:
    usual, other = (_json, _json_lines) if file.suffix.lower() == ".json" else (_json_lines, _json)
    try:
        told = usual(text)
    except ValueError as error:
        try:
            told = other(text)
        except ValueError:
            raise ValueError(f"{file} is neither JSON nor JSON lines ({error}); mend it") from error
    rows = list(_rows(told))
    if not rows:
        raise ValueError(
            f"{file} tells no classes in a way that is known; write {{image: class}}, or records of a name and a label"
        )
    return rows


def _json_lines(text: str) -> list[Any]:
    return [_json(line) for line in text.split("\n") if line.strip()]  # JSON may hold what else divides lines


def _json(text: str) -> Any:
    """JSON as Python has it; an object that tells two things by one name is the list of all its pairs."""

    def told(pairs: list[tuple[str, Any]]) -> Any:
        once = dict(pairs)
        return once if all(once[name] == value for name, value in pairs) else [list(pair) for pair in pairs]

    return parse_json(text, object_pairs_hook=told)


def _rows(told: Any) -> Iterator[LabelRow]:
    """Rows of {image: class}, {image: record}, {class: images}, {"labels": pairs}, columns, records, pairs, classes."""
    if isinstance(told, dict) and isinstance(told.get("labels"), list | dict) and len(told) == 1:
        told = told["labels"]
    if isinstance(told, dict):
        told = _entries(told)
    if not isinstance(told, list):
        return
    columns = tuple({str(name): None for entry in told if isinstance(entry, dict) for name in entry})
    for number, entry in enumerate(told, 1):
        if isinstance(entry, dict):
            yield LabelRow([entry.get(name) for name in columns], f"entry {number}", columns)
        else:
            yield LabelRow(entry if isinstance(entry, list) else [entry], f"entry {number}")


def _entries(told: Mapping[str, Any]) -> list[Any]:
    """A JSON object as a list of records or pairs."""
    values = list(told.values())
    if values and all(isinstance(value, dict) for value in values):
        return [{"file_name": name, **value} for name, value in told.items()]
    if values and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) == 1 and is_header(list(told)):
            return [dict(zip(told, row, strict=True)) for row in zip(*values, strict=True)]
        if all(isinstance(name, str) for value in values for name in value):
            return [[name, kind] for kind, names in told.items() for name in names]
    return [[name, value] for name, value in told.items()]
