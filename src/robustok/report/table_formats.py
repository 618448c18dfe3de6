"""A system table as Markdown, LaTeX, CSV and HTML. Names are escaped, so that they stay text in each of them."""

import csv
import io
import re
from collections.abc import Callable
from typing import NamedTuple

from robustok.report.document import document
from robustok.report.markup import BLANK, Markup, element
from robustok.report.system_table import SystemTable
from robustok.report.tables import head, row, table

TITLE = "Systems compared"
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    BLANK: "--",
    **{character: "\\" + character for character in "&%$#_{}"},
}


class Cell(NamedTuple):
    """What is seen in one place of the table."""

    text: str
    spread: str = ""  # half of the interval
    best: bool = False
    near: bool = False


def markdown(systems: SystemTable) -> str:
    """A table for GitHub that can also be read as it is, then notes and differences as lists."""
    lines = [[_markdown_text(text) for text in _heads(systems)]]
    for cells in _rows(systems):
        texts = [_markdown_text(cell.text) for cell in cells]
        bold = [f"**{text}**" if cell.best else text for text, cell in zip(texts, cells, strict=True)]
        lines.append([_beside(text, cell) for text, cell in zip(bold, cells, strict=True)])
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = [[first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])] for first, *rest in lines]
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in aligned)]
    for title, texts in {"": systems.notes, **systems.differences}.items():
        if texts:
            parts += [f"{_markdown_text(title)}:"] if title else []
            parts.append("\n".join(f"- {_markdown_text(text)}" for text in texts))
    return "\n\n".join(parts) + "\n"


def latex(systems: SystemTable) -> str:
    """A tabular for the package booktabs, notes below it; the differences as comments, for its author."""
    heads = _heads(systems)
    lines = []
    for cells in _rows(systems):
        texts = [rf"\textbf{{{_latex_text(c.text)}}}" if c.best else _latex_text(c.text) for c in cells]
        lines.append([_beside(text, cell, LATEX["≈"], LATEX["±"]) for text, cell in zip(texts, cells, strict=True)])
    notes = [
        rf"\multicolumn{{{len(heads)}}}{{p{{0.95\linewidth}}}}{{\footnotesize {_latex_text(text)}}}"
        for text in systems.notes
    ]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            *(f"% {' '.join(line.split())}" for line in in_words(systems)),
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex_text, heads)) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in lines),
            r"\bottomrule",
            *(rf"{note} \\" for note in notes),
            r"\end{tabular}",
            "",
        ]
    )


def comma_separated(systems: SystemTable) -> str:
    """Every number in full, one system a line: of each score its value, interval, images and seeds.

    The last column says which scores were not computed alike.
    """
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    parts = ("", "_low", "_high", "_images", "_seeds")
    names = [heading.name + part for heading in systems.headings for part in parts]
    writer.writerow(["system", *(fact.name for fact in systems.facts), *names, "not_alike"])
    not_alike = " ".join(heading.name for heading in systems.headings if not heading.alike)
    for name, facts, scores in systems.rows:
        numbers: list[float | None] = []
        for shown in scores:
            if shown is None:
                numbers += [None] * len(parts)
            else:
                value, interval, runs, images = shown.estimate
                numbers += [value, *(interval or (None, None)), images, runs]
        writer.writerow([_csv_text(name), *facts, *numbers, not_alike])
    return output.getvalue()


def html(systems: SystemTable) -> str:
    """A page that needs no other file."""
    heads = row(*(head(text, class_="n" if i else None) for i, text in enumerate(_heads(systems))))
    rows = [
        row(head(cells[0].text, scope="row"), *(_html_cell(cell) for cell in cells[1:])) for cells in _rows(systems)
    ]
    parts = [element("h1", TITLE), table("Scores", [heads], rows, "dense"), _html_list(systems.notes)]
    for title, texts in systems.differences.items():
        if texts:
            parts += [element("h3", title), _html_list(texts)]
    return document(f"robustok · {TITLE}", element("main", *parts, class_="comparison"))


def in_words(systems: SystemTable) -> list[str]:
    """The differences, line by line."""
    return [f"{title}: {text}" for title, texts in systems.differences.items() for text in texts]


FORMATS: dict[str, Callable[[SystemTable], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": html,
}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}


def _heads(systems: SystemTable) -> list[str]:
    arrows = {"lower": " ↓", "higher": " ↑", "": ""}
    scores = [f"{h.label}{arrows[h.better]}{'' if h.alike else ' *'}" for h in systems.headings]
    return ["System", *(fact.heading for fact in systems.facts), *scores]


def _rows(systems: SystemTable) -> list[list[Cell]]:
    return [
        [
            Cell(name),
            *(Cell(BLANK if v is None else f.text(v)) for f, v in zip(systems.facts, facts, strict=True)),
            *(Cell(BLANK) if s is None else Cell(s.value, s.spread, s.best, s.near) for s in scores),
        ]
        for name, facts, scores in systems.rows
    ]


def _beside(text: str, cell: Cell, near: str = "≈", plus: str = "±") -> str:
    """A value with the marks around it: `≈ 1.85 ± 0.05`."""
    return (f"{near} " if cell.near else "") + text + (f" {plus} {cell.spread}" if cell.spread else "")


def _html_cell(shown: Cell) -> Markup:
    value = element("strong", shown.text) if shown.best else shown.text
    spread = element("small", f"± {shown.spread}") if shown.spread else None
    return element("td", "≈ " if shown.near else None, value, spread, class_="n")


def _html_list(texts: list[str]) -> Markup:
    return element("ul", *(element("li", text) for text in texts), class_="sources")


def _markdown_text(text: str) -> str:
    """Text on one line that Markdown leaves alone; an underscore within a word is no emphasis."""
    return re.sub(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], " ".join(text.split()))


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _csv_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
