"""What post-training changed in each feature space: the one that was trained in, and those that were held out."""

from robustok.evaluation.scores.metric_names import metric_named
from robustok.report.run import Run, find
from robustok.report.table import Cell, Column, Entry, Table
from robustok.report.text import change, decimals, number, signed_percent

ARMS = ("before", "control", "after")
FRACTIONS = ("precision", "recall", "density", "coverage")


def spaces(run: Run) -> Table | None:
    """A group of rows for each space; nothing where there is only one space."""
    of_gfid = [record for when in ARMS for record in find(run.scores, f"gfid_{when}")]
    arms = [when for when in ARMS if run.score(f"gfid_{when}")]
    held_out: dict[str, bool] = {}
    for protocol in (record["protocol"] for record in of_gfid):
        if name := protocol.get("features"):
            held_out[str(name)] = held_out.get(str(name), False) or bool(protocol.get("held_out"))
    if len(held_out) < 2:
        return None
    rows: list[list[Entry]] = []
    for space, out in held_out.items():
        said = "held out: nothing was trained in it" if out else "trained in"
        rows.append([Cell(space, said, kind="key", span=len(arms) + 2)])
        rows += [row for metric in ("gfid", *FRACTIONS) if (row := _row(run, space, metric, arms))]
    after = Column("After", "against before, paired 95 %", kind="value")
    columns: list[Column | str] = ["Generated images, in each feature space", *arms, after]
    caption = "The space that was trained in, and those that were not"
    return Table(columns=columns, rows=rows, caption=caption, kind="dense")


def _row(run: Run, space: str, metric: str, arms: list[str]) -> list[Entry]:
    """A score of each arm in a space, and what post-training changed; nothing where there is no such score."""
    values = {when: run.value(f"{metric}_{when}", features=space) for when in (*arms, "before", "after")}
    known = [value for value in values.values() if value is not None]
    if not known:
        return []
    better = f"{metric_named(metric).better} is better"
    head = Cell(metric_named(metric).label, better)
    before, after = values["before"], values["after"]
    if metric in FRACTIONS:
        moved = f"{after - before:+.3f}" if before is not None and after is not None else None
        return [head, *(number(values[when], 3) for when in arms), moved]
    places = decimals(max(known))
    paired = run.score(f"{metric}_difference", features=space, **{"from": "before", "to": "after"})
    ends = paired["interval"] if before and paired is not None else None
    interval = " to ".join(signed_percent(end / before) for end in ends) if before and ends else ""
    relative = change(after, before)
    gain = Cell(None if relative is None else signed_percent(relative), interval)
    return [head, *(number(values[when], places) for when in arms), gain]
