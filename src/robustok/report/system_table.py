"""The system-level table of a paper: a row for each system, a column for each score, and each gap in words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from robustok.evaluation.scores.difference import unlike
from robustok.evaluation.scores.metric_names import metric_named
from robustok.evaluation.scores.score import Score
from robustok.report.html import render
from robustok.report.systems import Estimate, ScoreColumn, System, columns_of
from robustok.report.table import Table, TableCell, markdown_list, markdown_text
from robustok.report.text import count, decimals

HEAD = 2048  # bytes by which a page is known
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


class Fact(NamedTuple):
    """A fact of a system beside its scores."""

    heading: str
    name: str  # in CSV
    of: Callable[[System], Any]  # None where it is not known
    text: Callable[[Any], str]


class Heading(NamedTuple):
    """The top of a score's column."""

    name: str  # in CSV
    label: str
    better: str  # "lower", "higher" or ""
    alike: bool  # whether all of the column was computed alike


class Shown(NamedTuple):
    """A score in the table."""

    estimate: Estimate
    places: int  # decimals
    best: bool
    near: bool  # not the best, but within its noise

    @property
    def value(self) -> str:
        return f"{self.estimate.value:,.{self.places}f}"

    @property
    def spread(self) -> str:
        """The farther end of the interval, or "": the nearer one may have stopped at 0 or 1, where a score ends."""
        value, interval = self.estimate.value, self.estimate.interval
        return f"{max(value - interval[0], interval[1] - value):,.{self.places}f}" if interval else ""


class Row(NamedTuple):
    """A system in the table."""

    name: str
    facts: list[Any]  # one per entry of `SystemTable.facts`, None where it is not known
    scores: list[Shown | None]  # one per entry of `SystemTable.headings`


@dataclass(frozen=True)
class SystemTable:
    """A table of systems, and what its gaps mean; each format shows both."""

    facts: list[Fact]
    headings: list[Heading]
    rows: list[Row]
    notes: list[str]  # how to read it
    differences: dict[str, list[str]]  # "ours against theirs" -> a sentence for each score

    def shown(self) -> Table:
        """The table that is read: scores with half of their intervals, the best in bold."""
        scores = [f"{h.label}{ARROWS[h.better]}{'' if h.alike else ' *'}" for h in self.headings]
        rows = [
            [
                TableCell(name),
                *(None if v is None else fact.text(v) for fact, v in zip(self.facts, facts, strict=True)),
                *(
                    s and TableCell("≈ " * s.near + s.value, f"± {s.spread}" if s.spread else "", s.best)
                    for s in scores
                ),
            ]
            for name, facts, scores in self.rows
        ]
        columns = ["System", *(fact.heading for fact in self.facts), *scores]
        return Table(columns=columns, rows=rows, caption="Scores", kind="dense", notes=self.notes)

    def to_markdown(self) -> str:
        """A table for GitHub that can also be read as it is, then notes and differences as lists."""
        lists = [f"\n{markdown_text(title)}:\n\n{markdown_list(t)}" for title, t in self.differences.items() if t]
        return self.shown().to_markdown() + "".join(lists)

    def to_latex(self) -> str:
        """A tabular for the package booktabs, notes below it; the differences as comments, for its author."""
        return self.shown().to_latex(comments=self.in_words())

    def to_html(self) -> str:
        """A page that needs no other file."""
        return render("comparison", title=TITLE, table=self.shown(), differences=self.differences)

    def to_csv(self) -> str:
        """One system a line, with every number in full: of each score value, interval, images and seeds.

        The last column names the scores that were not computed alike.
        """
        parts = ("", "_low", "_high", "_images", "_seeds")
        names = [heading.name + part for heading in self.headings for part in parts]
        not_alike = " ".join(heading.name for heading in self.headings if not heading.alike)
        rows = []
        for name, facts, scores in self.rows:
            numbers: list[float | None] = []
            for score in scores:
                value, interval, runs, images = score.estimate if score else (None, None, None, None)
                numbers += [value, *(interval or (None, None)), images, runs]
            rows.append([name, *facts, *numbers, not_alike])
        columns = ["system", *(fact.name for fact in self.facts), *names, "not_alike"]
        return Table(columns=columns, rows=rows).to_csv()

    def in_words(self) -> list[str]:
        """The differences, line by line."""
        return [f"{title}: {text}" for title, texts in self.differences.items() for text in texts]


FORMATS: dict[str, Callable[[SystemTable], str]] = {
    "markdown": SystemTable.to_markdown,
    "latex": SystemTable.to_latex,
    "csv": SystemTable.to_csv,
    "html": SystemTable.to_html,
}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}
TITLE = "Systems compared"  # of the page
OPENINGS = {  # what tells a table of these from other files
    "markdown": "| System ",
    "latex": r"% \usepackage{booktabs}",
    "csv": "system,",
    "html": f"<title>robustok · {TITLE}</title>",  # in its first lines
}


def system_table(
    systems: Sequence[System], metrics: Sequence[str] | None = None, *, baseline: str = "", force: bool = False
) -> SystemTable:
    """The table of some systems, each against the baseline (the first unless named), by some metrics (None: all).

    Raises ValueError for a metric or a baseline that is not there, and for scores that were not computed alike,
    naming what differs; `force` turns the latter into a note on the table and leaves those scores unranked.
    """
    columns = columns_of(systems, metrics)
    against = _named(systems, baseline) if baseline else systems[0]
    unequal = {column: _unequal(systems, column) for column in columns}
    conflicts = [line for lines in unequal.values() for line in lines] + _in_other_spaces(systems, columns)
    if conflicts and not force:
        more = f" (and {len(conflicts) - 1} more such)" if len(conflicts) > 1 else ""
        raise ValueError(f"{conflicts[0]}{more}; compute both alike, or force the comparison")
    headings = {column: _heading(column, columns, alike=not unequal[column]) for column in columns}
    cells = [_cells(systems, column, ranked=headings[column].alike) for column in columns]
    facts = [fact for fact in FACTS if any(fact.of(system) is not None for system in systems)]
    rows = [
        Row(system.name, [fact.of(system) for fact in facts], [column[i] for column in cells])
        for i, system in enumerate(systems)
    ]
    notes = [*(f"Not computed alike: {line}." for line in conflicts), *_notes(systems, headings)]
    differences = {
        f"{system.name} against {against.name}": list(_differences(system, against, headings))
        for system in systems
        if system is not against
    }
    return SystemTable(facts, list(headings.values()), rows, notes, differences)


def is_table(path: Path, name: str) -> bool:
    """True for a file that begins as a table of systems in a format of `FORMATS`, and for an empty one."""
    with path.open("rb") as file:
        start = file.read(HEAD).decode(errors="replace")
    return not start or (OPENINGS[name] in start if name == "html" else start.startswith(OPENINGS[name]))


def in_three_digits(number: float) -> str:
    """A number of parameters in three digits: 4.65 M, 343 M, 1.2 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _number(*names: str) -> Callable[[System], Any]:
    """A number in what is known of a system, by the names on the way to it."""

    def of(system: System) -> Any:
        value: Any = system.about
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) else None

    return of


def _latent(system: System) -> str | None:
    return {"discrete": "disc.", "continuous": "con."}.get(str(system.about.get("latent")))


def _seeds(system: System) -> int | None:
    runs = max((len(runs) for runs in system.scores.values()), default=0)
    return runs if runs > 1 else None


FACTS = (
    Fact("Tokenizer", "tokenizer_parameters", _number("parameters", "tokenizer"), in_three_digits),
    Fact("Generator", "generator_parameters", _number("parameters", "generator"), in_three_digits),
    Fact("Latent", "latent", _latent, str),
    Fact("Tokens", "tokens", _number("tokens"), count),
    Fact("Codes", "codebook_size", _number("codebook_size"), count),
    Fact("Seeds", "seeds", _seeds, str),
)


def _named(systems: Sequence[System], name: str) -> System:
    for system in systems:
        if system.name == name:
            return system
    names = ", ".join(system.name for system in systems)
    raise ValueError(f"there is no system {name!r} to compare against; choose one of {names}")


def _heading(column: ScoreColumn, columns: Sequence[ScoreColumn], *, alike: bool) -> Heading:
    metric = metric_named(column.metric)
    alone = [c.metric for c in columns].count(column.metric) == 1
    name = column.metric if alone else f"{column.metric}_{column.features}"
    return Heading(name, metric.label if alone else f"{metric.label} ({column.features})", metric.better, alike)


def _unequal(systems: Sequence[System], column: ScoreColumn) -> list[str]:
    """Differences between how the first system's score was computed and the others'."""
    first, *others = [system for system in systems if column in system.scores]
    label, score = metric_named(column.metric).label, first.scores[column][0]
    return [
        f"{label} has {entry.name} {entry.first!r} for {first.name} and {entry.second!r} for {system.name}"
        for system in others
        for entry in unlike(score, system.scores[column][0])
    ]


def _in_other_spaces(systems: Sequence[System], columns: Sequence[ScoreColumn]) -> list[str]:
    """Metrics that two systems have, but in other spaces of features."""
    lines = []
    for metric in dict.fromkeys(column.metric for column in columns):
        spaces = {s.name: found for s in systems if (found := {c.features for c in s.scores if c.metric == metric})}
        (first, own), *others = spaces.items()
        lines += [
            f"{metric_named(metric).label} has features {min(own)!r} for {first} and {min(found)!r} for {name}"
            for name, found in others
            if not own & found
        ]
    return lines


def _cells(systems: Sequence[System], column: ScoreColumn, *, ranked: bool) -> list[Shown | None]:
    """A column: with `ranked`, the best is marked, and what is within its noise."""
    estimates = {system.name: estimate for system in systems if (estimate := system.estimate(column))}
    places = min(3, decimals(max(abs(estimate.value) for estimate in estimates.values())))
    better = metric_named(column.metric).better
    ranked = ranked and bool(better) and len({estimate.value for estimate in estimates.values()}) > 1
    choose = min if better == "lower" else max
    best = _named(systems, choose(estimates, key=lambda name: estimates[name].value))
    top = estimates[best.name].value

    def shown(system: System) -> Shown | None:
        estimate = estimates.get(system.name)
        if estimate is None:
            return None
        equal = estimate.value == top
        return Shown(estimate, places, ranked and equal, ranked and not equal and _near(best, system, column))

    return [shown(system) for system in systems]


def _near(best: System, system: System, column: ScoreColumn) -> bool:
    try:
        return system.against(best, column).within_noise
    except ValueError:  # nothing tells the noise
        return False


def _differences(system: System, against: System, headings: Mapping[ScoreColumn, Heading]) -> Iterator[str]:
    unknown = []
    for column, heading in headings.items():
        if column in system.scores and column in against.scores:
            label = heading.label + ("" if heading.alike else " (not computed alike)")
            try:
                yield f"{label} {system.against(against, column).in_words()}."
            except ValueError:  # nothing tells the noise
                unknown.append(label)
    if unknown:
        yield f"{', '.join(unknown)}: one run without an interval says nothing of the noise; run several seeds."


def _notes(systems: Sequence[System], headings: Mapping[ScoreColumn, Heading]) -> Iterator[str]:
    """The meaning of the marks, and the protocol of each column."""
    runs = {min(e.runs, 2) for s in systems for c in headings if (e := s.estimate(c)) is not None and e.interval}
    if runs:
        over = {1: "images for a single run", 2: "seeds for several"}
        yield f"±: half of the 95 % interval, over {' and over '.join(over[number] for number in sorted(runs))}."
    if len(systems) > 1:
        yield "Bold: the best. ≈: within the noise of the best."
    protocols: dict[str, list[str]] = {}
    for column, heading in headings.items():
        score = next(system.scores[column][0] for system in systems if column in system.scores)
        protocols.setdefault(protocol_of(score), []).append(heading.label)
    yield from (f"{', '.join(labels)}: {protocol}." for protocol, labels in protocols.items())
    samplings = {system.name: _sampling(system) for system in systems}
    if len(set(samplings.values())) > 1:
        yield f"Sampling: {'; '.join(f'{name}: {text}' for name, text in samplings.items() if text)}."


def protocol_of(score: Score) -> str:
    """Images, features and reference of a score."""
    entries = score.protocol
    parts = [f"{count(score.images)} images"] if score.images else []
    if "features" in entries:
        details = ", ".join(str(entries[name]) for name in ("weights", "resize") if name in entries)
        parts.append(f"features {entries['features']}" + (f" ({details})" if details else ""))
    reference = entries.get("reference")
    if isinstance(reference, Mapping):
        parts.append("against " + ", ".join(_entry(name, value) for name, value in reference.items()))
    return "; ".join(parts) or "no protocol given"


def _entry(name: str, value: Any) -> str:
    """An entry of what is said of a reference."""
    match name:
        case "name" | "split" | "view":
            return str(value)
        case "count":
            return f"{value} images"
    return f"{name} {value}"


def _sampling(system: System) -> str:
    """The settings its images were drawn with."""
    scores = [score for runs in system.scores.values() for score in runs]
    sampling: Mapping[str, Any] = next(
        (score.protocol["sampling"] for score in scores if "sampling" in score.protocol), {}
    )
    return ", ".join(f"{name} {value}" for name, value in sampling.items() if name != "type")
