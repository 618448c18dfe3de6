"""Text for a terminal: in columns, filled to its width, bold."""

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence

from robustok.report.table import Column, Table

WIDTH = 100  # columns, at most


def table(rows: Iterable[Sequence[str]]) -> str:
    """Names and explanations in columns."""
    lines = list(rows)
    columns = [Column("", left=True) for _ in (lines or [()])[0]]
    return Table(columns=columns, rows=lines).to_text(WIDTH, widest=34)


def filled(text: str) -> str:
    """Paragraphs broken into lines."""
    return "\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in text.split("\n"))


def bold(text: str) -> str:
    """Text that stands out on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
