"""One table, written as Markdown, LaTeX, CSV, HTML or plain text; text stays text in each of them."""

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from robustok.report.html import part
from robustok.report.text import BLANK

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after the end of a row it would open an option
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER DELTA}": r"$\delta$",
    BLANK: "--",
    **{character: "\\" + character for character in "&%$#_{}"},
}


class TableCell(NamedTuple):
    """One place of a table. In HTML the text may be a chart, as Markup."""

    text: str | float | None = ""  # a number is written in full; None is a dash, and in CSV nothing
    note: str = ""  # beside the text; in HTML in small print, line by line
    strong: bool = False
    kind: str = ""  # HTML: more classes
    shade: float | None = None  # HTML: background, from pale at 0 to strong at 1
    span: int = 1  # columns it takes

    @property
    def shown(self) -> str:
        """The text that is read in it."""
        return BLANK if self.text is None else self.text if isinstance(self.text, str) else str(self.text)


class Column(NamedTuple):
    """The head of a column."""

    name: str
    note: str = ""
    left: bool = False  # words; numbers are aligned to the right
    kind: str = ""  # HTML: more classes of the whole column
    chart: bool = False  # holds charts, which HTML alone can show


Entry = TableCell | str | float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, of which the first names the rows, and rows of cells. Raises ValueError for a row of another length."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Entry]]
    caption: str = ""  # HTML
    kind: str = ""  # HTML: classes of the table
    groups: Sequence[tuple[str, int]] = ()  # a title over so many columns each, "" for none
    notes: Sequence[str] = ()  # how to read it, below

    def __post_init__(self) -> None:
        width = len(self.columns)
        for i, row in enumerate(self.cells):
            if (given := sum(cell.span for cell in row)) != width:
                raise ValueError(f"row {i} of the table has {given} cells where there are {width} columns")
        if self.groups and sum(span for _, span in self.groups) != width:
            raise ValueError(f"groups of {[span for _, span in self.groups]} columns do not make {width}")

    @property
    def heads(self) -> list[Column]:
        """The columns; one that was given as text holds numbers, the first one words."""
        given = (c if isinstance(c, Column) else Column(c) for c in self.columns)
        return [column._replace(left=column.left or not i) for i, column in enumerate(given)]

    @property
    def cells(self) -> list[list[TableCell]]:
        """The rows, every entry as a cell."""
        return [[entry if isinstance(entry, TableCell) else TableCell(entry) for entry in row] for row in self.rows]

    def to_markdown(self) -> str:
        """A table for GitHub that can also be read as it is, and its notes as a list."""
        head, *lines = self._texts(markdown_text, lambda text: f"**{text}**")
        left = [column.left for column in self._shown()]
        widths = [max(3, *map(len, texts)) for texts in zip(head, *lines, strict=True)]
        rule = ["-" * w if words else "-" * (w - 1) + ":" for w, words in zip(widths, left, strict=True)]
        whole = "".join(f"| {' | '.join(_padded(line, widths, left))} |\n" for line in (head, rule, *lines))
        return whole + ("\n" + markdown_list(self.notes) if self.notes else "")

    def to_latex(self, comments: Sequence[str] = ()) -> str:
        """A tabular for the package booktabs with its notes below it, after some lines of comment."""
        head, *lines = self._texts(latex_text, lambda text: rf"\textbf{{{text}}}")
        notes = (
            rf"\multicolumn{{{len(head)}}}{{p{{0.95\linewidth}}}}{{\footnotesize {latex_text(note)}}}"
            for note in self.notes
        )
        made = [
            r"% \usepackage{booktabs}",
            *(f"% {' '.join(line.split())}" for line in comments),
            rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in self._shown())}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in lines),
            r"\bottomrule",
            *(rf"{note} \\" for note in notes),
            r"\end{tabular}",
        ]
        return "\n".join(made) + "\n"

    def to_csv(self) -> str:
        """The texts of all cells without their notes, numbers in full; no spreadsheet takes a text for a formula."""
        lines = [[csv_text(column.name) for column in self._shown()]]
        lines += [[csv_text(cell.text) for cell in row] for row in self._visible()]
        output = io.StringIO(newline="")
        for line in lines:
            csv.writer(output, lineterminator="\r\n").writerow(line)  # which quotes a text with either of the two
            output.seek(output.tell() - 2)
            output.truncate()
            output.write("\n")
        return output.getvalue()

    def to_text(self, width: int = 0, indent: int = 2, gap: int = 2, widest: int = 34) -> str:
        """Columns for a terminal, without lines; the last one, if it holds words, is broken at `width`.

        A name longer than `widest` gets a line of its own. A table without names of columns has no head.
        """
        lines = self._texts(lambda text: text, lambda text: text)
        lines = lines if any(lines[0]) else lines[1:]
        if not lines:
            return ""
        left = [column.left for column in self._shown()]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        widths[0] = min(widest, widths[0])
        room = width - indent - sum(w + gap for w in widths[:-1]) if width and left[-1] else 0
        made = []
        for line in lines:
            if len(line[0]) > widest and len(line) > 1:
                made.append(" " * indent + line[0])
                line = ["", *line[1:]]
            last = textwrap.wrap(line[-1], max(room, 20)) or [""] if room else [line[-1]]
            for i, piece in enumerate(last):
                texts = [*line[:-1], piece] if not i else [""] * (len(line) - 1) + [piece]
                made.append((" " * indent + (" " * gap).join(_padded(texts, widths, left))).rstrip())
        return "\n".join(made)

    def to_html(self) -> str:
        """A captioned table that scrolls by itself where the screen is too narrow for it, with its notes."""
        return part("table", self)

    __html__ = to_html  # in a template a table is written as it is

    def _shown(self) -> list[Column]:
        return [column for column in self.heads if not column.chart]

    def _visible(self) -> Iterator[list[TableCell]]:
        """The rows without charts, and with an empty cell for each further column that a cell takes."""
        for row in self.cells:
            spread = [part for cell in row for part in (cell, *[TableCell()] * (cell.span - 1))]
            yield [cell for cell, column in zip(spread, self.heads, strict=True) if not column.chart]

    def _texts(self, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
        """Every line as texts, the names of the columns first, with their groups."""
        groups = [title for title, span in self.groups for _ in range(span)]
        names = [f"{title}: {head.name}" if title else head.name for title, head in zip_longest(groups, self.heads)]
        shown = [name for name, column in zip(names, self.heads, strict=True) if not column.chart]
        lines = [[escape(name) for name in shown]]
        for row in self._visible():
            texts = [(escape(cell.shown), escape(cell.note), cell.strong) for cell in row]
            lines.append([" ".join(filter(None, (bold(t) if strong else t, note))) for t, note, strong in texts])
        return lines


def _padded(texts: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> list[str]:
    return [t.ljust(w) if words else t.rjust(w) for t, w, words in zip(texts, widths, left, strict=True)]


def markdown_text(text: str) -> str:
    """Text on one line that Markdown leaves alone; an underscore within a word is no emphasis."""
    return re.sub(r"[\\`*\[\]<|]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], _on_one_line(text))


def markdown_list(texts: Sequence[str]) -> str:
    """A point for each text, in which no heading, quotation or other list begins."""
    safe = (re.sub(r"^([0-9]*)([#>+.)-])", r"\1\\\2", markdown_text(text)) for text in texts)
    return "".join(f"- {text}\n" for text in safe)


def latex_text(text: str) -> str:
    """Text on one line in which nothing is a command; what LaTeX has a command for is written by it."""
    return "".join(LATEX.get(character, character) for character in _on_one_line(text))


def _on_one_line(text: str) -> str:
    return re.sub(r"[ \t\r\n\v\f]+", " ", text).strip(" ")


def csv_text(value: str | float | None) -> str | float:
    """A number or nothing as it is, and text that a spreadsheet does not take for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
