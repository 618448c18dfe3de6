"""A system table as Markdown, LaTeX, CSV and HTML, each with what the gaps mean."""

from collections.abc import Callable

from robustok.report.html import page
from robustok.report.system_table import SystemTable
from robustok.report.table import Cell, Table, markdown_list, markdown_text

TITLE = "Systems compared"
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def shown(systems: SystemTable) -> Table:
    """The table that is read: scores with half of their intervals, the best in bold."""
    scores = [f"{h.label}{ARROWS[h.better]}{'' if h.alike else ' *'}" for h in systems.headings]
    rows = [
        [
            Cell(name),
            *(None if v is None else fact.text(v) for fact, v in zip(systems.facts, facts, strict=True)),
            *(s and Cell("≈ " * s.near + s.value, f"± {s.spread}" if s.spread else "", s.best) for s in scores),
        ]
        for name, facts, scores in systems.rows
    ]
    columns = ["System", *(fact.heading for fact in systems.facts), *scores]
    return Table(columns=columns, rows=rows, caption="Scores", kind="dense", notes=systems.notes)


def in_full(systems: SystemTable) -> Table:
    """Every number: of each score its value, interval, images and seeds, and at the end those not computed alike."""
    parts = ("", "_low", "_high", "_images", "_seeds")
    names = [heading.name + part for heading in systems.headings for part in parts]
    not_alike = " ".join(heading.name for heading in systems.headings if not heading.alike)
    rows = []
    for name, facts, scores in systems.rows:
        numbers: list[float | None] = []
        for score in scores:
            value, interval, runs, images = score.estimate if score else (None, None, None, None)
            numbers += [value, *(interval or (None, None)), images, runs]
        rows.append([name, *facts, *numbers, not_alike])
    return Table(columns=["system", *(fact.name for fact in systems.facts), *names, "not_alike"], rows=rows)


def markdown(systems: SystemTable) -> str:
    """A table for GitHub that can also be read as it is, then notes and differences as lists."""
    lists = [f"\n{markdown_text(title)}:\n\n{markdown_list(t)}" for title, t in systems.differences.items() if t]
    return shown(systems).to_markdown() + "".join(lists)


def latex(systems: SystemTable) -> str:
    """A tabular for the package booktabs, notes below it; the differences as comments, for its author."""
    return shown(systems).to_latex(comments=in_words(systems))


def comma_separated(systems: SystemTable) -> str:
    """Every number in full, one system a line."""
    return in_full(systems).to_csv()


def html(systems: SystemTable) -> str:
    """A page that needs no other file."""
    return page("comparison", title=TITLE, table=shown(systems), differences=systems.differences)


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
