"""Text files as rows of fields, in each way in which they may be meant: delimited, by blanks, JSON, JSON lines."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DELIMITERS = (",", "\t", ";", "|")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
LONGEST = 80  # characters of a row that an error shows


class Row(NamedTuple):
    """What one row of a file tells."""

    fields: list[Any]
    where: str  # "line 3"
    columns: tuple[str, ...] | None = None  # the names of the fields, where each row tells them

    @property
    def text(self) -> str:
        """The row as errors show it."""
        return ", ".join(str(field) for field in self.fields)[:LONGEST]


def ways_to_read(file: Path, split: Callable[[str], list[str]]) -> list[list[Row]]:
    """The rows of a file in each way in which it may be meant, the usual one of its suffix first.

    `split` divides a line without delimiters. Empty lines are left out, and lines that begin with #, unless `split`
    finds something in them. Raises ValueError for a file that is no text, or damaged.
    """
    text = _text(file)
    if file.suffix.lower() in JSON_SUFFIXES:
        return [_of_json(file, text)]
    lines = text.splitlines()
    kept = [line if not line.startswith("#") or len(split(line)) > 1 else "" for line in lines]
    delimiters = sorted(DELIMITERS, key=lambda delimiter: (delimiter == "\t") != (file.suffix.lower() == ".tsv"))
    ways, wrong = [], None
    for delimiter in delimiters:
        try:
            ways.append(list(_delimited(kept, delimiter)))
        except csv.Error as error:
            wrong = wrong or error
    by_blanks = [Row(split(line), f"line {number}") for number, line in enumerate(kept, 1) if line.strip()]
    ways.insert(len(ways) if file.suffix.lower() in (".csv", ".tsv") else 0, by_blanks)
    if wrong and file.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"{file} is no whole table ({wrong}); mend its quotes")
    return ways


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
        told = json.loads(text)
    except ValueError as error:
        try:
            told = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise ValueError(f"{file} is neither JSON nor JSON lines ({error}); mend it") from error
    rows = list(_rows(told))
    if not rows:
        raise ValueError(
            f"{file} tells no classes in a way that is known; write {{image: class}}, or records of a name and a label"
        )
    return rows


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
        if len({len(value) for value in values}) == 1 and any(name in told for name in ("image", "file_name", "label")):
            return [dict(zip(told, row, strict=True)) for row in zip(*values, strict=True)]
        return [[name, kind] for kind, names in told.items() for name in names]
    return [[name, value] for name, value in told.items()]
