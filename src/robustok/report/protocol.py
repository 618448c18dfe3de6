"""The measuring of a run: its costs, and the protocol of its scores."""

from markupsafe import Markup

from robustok.evaluation.scores.metric_names import metric_named
from robustok.report.charts import bar
from robustok.report.html import part
from robustok.report.run import STAGES, Run, find
from robustok.report.scores import DISTANCES
from robustok.report.table import Column, Entry, Table, TableCell
from robustok.report.text import BLANK, count, duration, number
from robustok.runtime.configs import flat

OTHERS = ("psnr", "ssim", "codebook_use", "codebook_perplexity", "steps_to_gfid")


def costs(run: Run) -> Table | None:
    """Seconds of each stage, and of a training step."""
    records = [r for r in find(run.scores, "seconds") if "stage" in r["protocol"]]
    if not records:
        return None
    longest = max(r["value"] for r in records)
    rows: list[list[Entry]] = []
    for record in records:
        stage, seconds = record["protocol"]["stage"], record["value"]
        steps, trained = run.steps(stage), run.series(stage, "seconds")
        rows.append(
            [
                STAGES.get(stage, stage.replace("_", " ").capitalize()),
                duration(seconds),
                count(steps) if steps else "",
                f"{count(1000 * trained[-1][1] / trained[-1][0])} ms" if trained else "",
                bar(seconds, longest, color="line", floor=None, bounds=None),
            ]
        )
    total, memory = run.value("seconds_total"), run.value("peak_rss_gib")
    if total is not None:
        peak = f"peak memory {number(memory)} GiB" if memory is not None else ""
        rows.append(
            [TableCell("All", kind="key"), TableCell(duration(total), kind="key"), TableCell(peak, kind="key", span=3)]
        )
    quiet = (Column("Steps", kind="quiet"), Column("Per step", kind="quiet"), Column("", kind="wide", chart=True))
    return Table(columns=("Stage", "Time", *quiet), rows=rows, caption="Wall time")


def protocol(run: Run) -> list[Table | Markup]:
    """The protocol of every score: first what all Fréchet distances share, then what differs."""
    names = {metric: name for metric, (name, *_) in DISTANCES.items()} | {m: metric_named(m).label for m in OTHERS}
    records = [(r, flat(r["protocol"])) for r in run.scores if r["metric"] in names]
    if not records:
        return []
    measured = [p for r, p in records if r["metric"] in DISTANCES]
    shared = {k: v for k, v in measured[0].items() if all(p.get(k) == v for p in measured)} if measured else {}
    rows = [
        [
            names[r["metric"]],
            count(r["images"]),
            _plain(r["seeds"] or None),
            "; ".join(f"{_words(k)} {_plain(v)}" for k, v in p.items() if shared.get(k) != v),
        ]
        for r, p in records
    ]
    facts = [(_words(k), _plain(v), "") for k, v in shared.items()]
    columns = ("Score", "Images", "Seeds", Column("Particulars", left=True))
    caption = "Images, seeds and particulars of each score"
    return [
        *([part("definitions", "facts", facts)] if facts else []),
        Table(columns=columns, rows=rows, caption=caption, kind="particulars"),
    ]


def _words(key: str) -> str:
    return key.replace(".", ", ").replace("_", " ")


def _plain(value: object) -> str:
    if value is None:
        return BLANK
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
