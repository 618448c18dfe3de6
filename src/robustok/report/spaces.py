"""What post-training changed in each feature space: the one that was trained in, and those that were held out."""

from typing import NamedTuple

from robustok.report.markup import BLANK, Markup, change, decimals, element, number, signed_percent
from robustok.report.run import Record, Run, find
from robustok.report.tables import cell, head, row, table

ARMS = ("before", "control", "after")
SHARES = ("precision", "recall", "density", "coverage")


class SpaceRow(NamedTuple):
    """A line of the table."""

    name: str
    note: str
    values: list[str]  # for each arm shown
    moved: str  # from before to after
    interval: str  # of that, paired


def space_rows(run: Run) -> tuple[list[str], list[tuple[str, str, list[SpaceRow]]]]:
    """The arms that there are; and for each space its name, whether it was trained in, and its rows."""
    of_gfid = [r for when in ARMS for r in find(run.scores, f"gfid_{when}")]
    arms = [when for when in ARMS if run.score(f"gfid_{when}")]
    names = dict.fromkeys(str(r["protocol"]["features"]) for r in of_gfid if "features" in r["protocol"])
    groups = []
    for name in names:
        held_out = any(r["protocol"].get("held_out") for r in of_gfid if r["protocol"].get("features") == name)
        rows = [_distance(run, name, arms), *(_share(run, name, metric, arms) for metric in SHARES)]
        said = "held out: nothing was trained in it" if held_out else "trained in"
        groups.append((name, said, [line for line in rows if line is not None]))
    return arms, groups


def spaces(run: Run) -> Markup | None:
    """A group of rows for each space; nothing where there is only one space."""
    arms, groups = space_rows(run)
    if len(groups) < 2:
        return None
    rows = []
    for name, said, lines in groups:
        rows.append(row(head(name, element("small", said), scope="rowgroup", colspan=len(arms) + 2), class_="key"))
        for line in lines:
            moved = element("td", line.moved, element("small", line.interval), class_="n value")
            rows.append(row(head(line.name, element("small", line.note), scope="row"), *map(cell, line.values), moved))
    heads = row(
        head("Generated images, in each feature space"),
        *(head(when, class_="n") for when in arms),
        head("After", element("small", "against before, paired 95 %"), class_="n"),
    )
    return table("The space that was trained in, and those that were not", [heads], rows, "dense")


def _distance(run: Run, space: str, arms: list[str]) -> SpaceRow | None:
    values = [run.value(f"gfid_{when}", features=space) for when in arms]
    known = [value for value in values if value is not None]
    if not known:
        return None
    before = run.value("gfid_before", features=space)
    moved = change(run.value("gfid_after", features=space), before)
    paired: Record | None = run.score("gfid_difference", features=space, **{"from": "before", "to": "after"})
    ends = ""
    if before and paired is not None and paired["interval"]:
        ends = " to ".join(signed_percent(end / before) for end in paired["interval"])
    places = decimals(max(known))
    texts = [number(value, places) if value is not None else BLANK for value in values]
    return SpaceRow("gFID", "lower is better", texts, signed_percent(moved) if moved is not None else BLANK, ends)


def _share(run: Run, space: str, metric: str, arms: list[str]) -> SpaceRow | None:
    values = [run.value(f"{metric}_{when}", features=space) for when in arms]
    if all(value is None for value in values):
        return None
    before, after = (run.value(f"{metric}_{when}", features=space) for when in ("before", "after"))
    moved = f"{after - before:+.3f}" if before is not None and after is not None else BLANK
    texts = [number(value, 3) if value is not None else BLANK for value in values]
    return SpaceRow(metric.capitalize(), "higher is better", texts, moved, "")
