"""Text files as rows of fields, in each way in which they may be meant: delimited, by blanks, JSON, JSON lines."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustok.runtime.checkpoint import parse_json

# fmt: off
NAMES = (  # of a column of images
    "file_name", "filename", "file", "image", "images", "img", "image_name", "imagename", "image_file", "image_path",
    "img_name", "img_path", "file_path", "filepath", "path", "image_id", "imageid", "name", "id", "key",
)
LABELS = (  # of a column of classes, the first that is there being meant
    "label", "labels", "class", "classes", "cls", "class_name", "classname", "label_name", "category", "target",
    "synset", "wnid", "class_id", "classid", "label_id", "category_id", "class_label", "predictionstring", "y",
)
# fmt: on
DELIMITERS = (",", "\t", ";", "|")
TABLES = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
LONGEST = 80  # characters of a row that an error shows


class Row(NamedTuple):
    """One row of a file."""

    fields: list[Any]
    where: str  # "line 3"
    columns: tuple[str, ...] | None = None  # the names of the fields, where each row tells them

    @property
    def text(self) -> str:
        """The row as errors show it."""
        return ", ".join(str(field) for field in self.fields)[:LONGEST]


def ways_to_read(file: Path, split: Callable[[str], list[str]], comments: bool) -> Iterator[list[Row]]:
    """The rows of a file in each way in which a row may be divided: that of a table's suffix first, by blanks last.

    `split` divides a line by blanks. Empty lines are left out and, with `comments`, lines that begin with #. Raises
    ValueError for a file that is no text, or a table whose quotes do not match.
    """
    text, suffix = _text(file), file.suffix.lower()
    if suffix in JSON_SUFFIXES:
        yield _of_json(file, text)
        return
    lines = ["" if comments and line.startswith("#") else line for line in re.split(r"\r\n|\r|\n", text)]
    for delimiter in sorted(DELIMITERS, key=lambda delimiter: delimiter != TABLES.get(suffix)):
        try:
            yield list(_delimited(lines, delimiter))
        except csv.Error as error:
            if delimiter == TABLES.get(suffix):
                raise ValueError(f"{file} is no whole table ({error}); mend its quotes") from error
    yield list(_by_blanks(lines, split))


def is_header(fields: Sequence[Any]) -> bool:
    """Tell whether these are names of columns."""
    lower = {str(field).strip().lower() for field in fields}
    return bool(lower & {*NAMES, *LABELS})


def _by_blanks(lines: list[str], split: Callable[[str], list[str]]) -> Iterator[Row]:
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    titles = filled[0][1].split() if filled else []
    table = len(titles) > 1 and {titles[0].lower()} <= {*NAMES} and is_header(titles[1:])
    for index, (number, line) in enumerate(filled):
        whole = table and (index == 0 or len(titles) > 2)  # else a class may hold blanks
        yield Row(line.split() if whole else split(line), f"line {number}")


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


def _delimited(lines: list[str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    for fields in reader:
        fields = [field.strip() for field in fields]
        if any(fields):
            yield Row(fields, f"line {reader.line_num}")


def _of_json(file: Path, text: str) -> list[Row]:
    try:
        told = _json(text) if file.suffix.lower() == ".json" else _json_lines(text)
    except ValueError as error:
        try:
            told = _json_lines(text) if file.suffix.lower() == ".json" else _json(text)
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
    """What JSON tells; an object that tells two things by one name is the list of all its pairs."""

    def told(pairs: list[tuple[str, Any]]) -> Any:
        once = dict(pairs)
        return once if all(once[name] == value for name, value in pairs) else [list(pair) for pair in pairs]

    return parse_json(text, object_pairs_hook=told)


def _rows(told: Any) -> Iterator[Row]:
    """Rows of {image: class}, {image: record}, {class: images}, {"labels": pairs}, columns, records, pairs, classes."""
    if isinstance(told, dict) and isinstance(told.get("labels"), list | dict) and len(told) == 1:
        told = told["labels"]
    if isinstance(told, dict):
        told = _entries(told)
    if not isinstance(told, list):
        return
    columns = tuple({str(name): None for entry in told if isinstance(entry, dict) for name in entry})
    for number, entry in enumerate(told, 1):
        where = f"entry {number}"
        if isinstance(entry, dict):
            yield Row([entry.get(name) for name in columns], where, columns)
        elif isinstance(entry, list):
            yield Row(entry, where)
        else:
            yield Row([entry], where)


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
