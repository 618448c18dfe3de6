"""The numbers of `pfid_study.py` as tables in docs/pfid_study.md and as a picture beside it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from correlation import Estimate, bootstrap, correlation, pearson, spearman
from markupsafe import Markup, escape
from pfid_variants import FROM_SCORES, PUBLISHED, Measured, joint_left_out_error, left_out_error, pfid, variants

from robustok.report.charts import nice_ticks
from robustok.report.table import Column, Table
from robustok.runtime.checkpoint import read_json
from robustok.runtime.logging import MetricsLog

BEGIN, END = "<!-- written by benchmarks/pfid_report.py -->", "<!-- end -->"
COLORS = {"up to 512 codes": "#b4590c", "about 1024 codes": "#2463a8", "about 4096 codes": "#33803f"}
MINUS = "\N{MINUS SIGN}"
PANEL, HEIGHT, LEFT, TOP, BOTTOM = 300, 290, 48, 30, 44  # of the picture, in its own units


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """`<name attributes>children</name>`; `_` in an attribute's name is a hyphen, and at its end nothing."""
    named = (Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), v) for key, v in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(named), Markup("").join(map(escape, children)))


def report(folder: Path, docs: Path) -> None:
    """Put the tables between the two marks in docs/pfid_study.md and the picture into docs/images."""
    measured = [
        m | {"loss": MetricsLog(path.parent / "generator").rows()[-1]["loss"]}
        for path in sorted(folder.glob("*/measured.json"))
        if {"rfid_pfid_images", "gfid_guided"} <= (m := read_json(path)).keys()
    ]
    measured.sort(key=lambda m: (m["codebook_size"], pfid(m)))
    page, picture = docs / "pfid_study.md", docs / "images" / "pfid_study.svg"
    tables = "\n\n".join(
        [
            tokenizers(measured),
            comparison("gFID with tuned guidance", "gfid_guided", measured),
            comparison("gFID without guidance", "gfid", measured),
            left_out(measured),
            published(),
        ]
    )
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
    picture.write_text(scatter(measured), encoding="utf-8")


def tokenizers(measured: Sequence[Measured]) -> str:
    """One row a tokenizer."""
    rows = [
        [
            str(number),
            m["name"],
            f"{m['codebook_size']}",
            f"{m['reconstruction']['perplexity']:.0f}",
            f"{m['reconstruction']['rfid']:.1f}",
            f"{m['rfid_pfid_images']:.1f}",
            f"{pfid(m):.1f}",
            f"{m['loss']:.2f}",
            f"{m['gfid']:.1f}",
            f"{m['gfid_guided']:.1f}",
            f"{m['guidance']:g}",
        ]
        for number, m in enumerate(measured, 1)
    ]
    head = [
        "#",
        "tokenizer",
        "K",
        "perplexity",
        "rFID",
        "rFID of pFID's images",
        "pFID",
        "loss",
        "gFID",
        "gFID, guided",
        "guidance",
    ]
    return table(head, rows, right=2)


def comparison(title: str, target: str, measured: Sequence[Measured]) -> str:
    """How each variant goes with gFID, and whether it does so better than the published pFID."""
    scores, gfid = variants(measured), [m[target] for m in measured]
    level = 1 - 0.05 / (len(scores) - 1)  # Bonferroni: all differences hold together with 95 %
    sizes = [group(m) for m in measured]
    rows = []
    for name, values in scores.items():
        gain = "" if name == "pFID" else in_words(advantage(values, scores["pFID"], gfid, level))
        rows.append(
            [
                name,
                in_words(correlation(pearson, values, gfid)),
                in_words(correlation(spearman, values, gfid)),
                gain,
                in_words(within(sizes, values, gfid)),
                signed(least(values, gfid)),
            ]
        )
    head = [
        title,
        "Pearson r",
        "Spearman r",
        f"Pearson, minus pFID's ({level:.1%})",
        "Pearson r within sizes",
        "least r without one",
    ]
    return table(head, rows)


def least(values: Sequence[float], gfid: Sequence[float]) -> float:
    """The lowest Pearson r that leaving out a single tokenizer gives: whether it all rests on one."""
    x, y = np.asarray(values), np.asarray(gfid)
    return min(float(pearson(np.delete(x, out), np.delete(y, out))) for out in range(len(x)))


def advantage(values: Sequence[float], baseline: Sequence[float], gfid: Sequence[float], level: float) -> Estimate:
    """How much better one predictor correlates than another, over resampled tokenizers."""
    x, b, y = (np.asarray(v, dtype=np.float64) for v in (values, baseline, gfid))
    return bootstrap(lambda i: pearson(x[i], y[i]) - pearson(b[i], y[i]), len(y), level=level)


def within(sizes: Sequence[Any], values: Sequence[float], gfid: Sequence[float]) -> Estimate:
    """Pearson's r once every codebook size has lost its mean: what is left between tokenizers of one size."""
    return correlation(pearson, centered(sizes, values), centered(sizes, gfid))


def centered(sizes: Sequence[Any], values: Sequence[float]) -> list[float]:
    """Each value less the mean of its size."""
    alike = {size: [v for s, v in zip(sizes, values, strict=True) if s == size] for size in sizes}
    return [value - sum(alike[size]) / len(alike[size]) for size, value in zip(sizes, values, strict=True)]


def left_out(measured: Sequence[Measured]) -> str:
    """How well gFID is predicted for a tokenizer that nothing was chosen or fitted on."""
    scores = variants(measured)
    best = most_telling(scores, [m["gfid_guided"] for m in measured])
    surprise = [math.log2(m["reconstruction"]["perplexity"]) for m in measured]
    rows = []
    for name, error in {
        "nothing: the mean of the others": lambda gfid: joint_left_out_error([], gfid),
        "rFID": lambda gfid: left_out_error([scores["rFID"]], gfid),
        "pFID": lambda gfid: left_out_error([scores["pFID"]], gfid),
        "whichever variant is best on the others": lambda gfid: left_out_error(list(scores.values()), gfid),
        f"{best}, which is best in hindsight": lambda gfid: left_out_error([scores[best]], gfid),
        "log perplexity of the codes (afterthought)": lambda gfid: left_out_error([surprise], gfid),
        "pFID and log perplexity (afterthought)": lambda gfid: joint_left_out_error([scores["pFID"], surprise], gfid),
        "the generator's own loss (known only once it is trained)": lambda gfid: left_out_error(
            [[m["loss"] for m in measured]], gfid
        ),
    }.items():
        rows.append([name, *(f"{error([m[target] for m in measured]):.1f}" for target in ("gfid_guided", "gfid"))])
    return table(["error in gFID of a left-out tokenizer, predicted from", "guided", "not guided"], rows)


def published() -> str:
    """What can be said from the 11 published rows."""
    gfid = [row.gfid for row in PUBLISHED]
    scores = {name: [of(r.rfid, r.pfid, r.codebook_size) for r in PUBLISHED] for name, of in FROM_SCORES.items()}
    level = 1 - 0.05 / (len(scores) - 1)
    rows = [
        [
            name,
            in_words(correlation(pearson, values, gfid)),
            in_words(correlation(spearman, values, gfid)),
            "" if name == "pFID" else in_words(advantage(values, scores["pFID"], gfid, level)),
            in_words(within([row.codebook_size for row in PUBLISHED], values, gfid)),
            f"{left_out_error([values], gfid):.2f}",
        ]
        for name, values in scores.items()
    ]
    both = joint_left_out_error([scores["pFID"], [math.log2(row.codebook_size) for row in PUBLISHED]], gfid)
    rows.append(["nothing: the mean of the others", "", "", "", "", f"{joint_left_out_error([], gfid):.2f}"])
    rows.append(["pFID and log2 K, both fitted (afterthought)", "", "", "", "", f"{both:.2f}"])
    head = [
        "published rows",
        "Pearson r",
        "Spearman r",
        f"Pearson, minus pFID's ({level:.1%})",
        "Pearson r within sizes",
        "left-out error",
    ]
    return table(head, rows)


def group(m: Measured) -> str:
    """Which of three sizes a codebook has."""
    small, middle, large = COLORS
    return small if m["codebook_size"] <= 512 else middle if m["codebook_size"] <= 2048 else large


def in_words(estimate: Estimate) -> str:
    return f"{signed(estimate.value)} ({signed(estimate.low)} to {signed(estimate.high)})"


def signed(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """Markdown; columns from `right` on hold numbers."""
    columns = [Column(name, left=i < right) for i, name in enumerate(head)]
    return Table(columns=columns, rows=rows).to_markdown().rstrip()


def scatter(measured: Sequence[Measured]) -> str:
    """Guided gFID over rFID, over pFID and over the variant that goes with it best, as one SVG file."""
    scores, gfid = variants(measured), [m["gfid_guided"] for m in measured]
    shown = ["rFID", "pFID", most_telling(scores, gfid)]
    width = PANEL * len(shown)
    parts: list[Markup] = [element("rect", width=width, height=HEIGHT, fill="#ffffff")]
    for i, name in enumerate(shown):
        parts.append(panel(name, scores[name], gfid, measured, PANEL * i))
    parts += legend(width)
    style = "text { font: 11px system-ui, sans-serif; fill: #333 } .name { font-weight: 600 } .rule { stroke: #e2e2e2 }"
    title = element("title", "Guided gFID of the study's tokenizers over three predictors of it")
    return element(
        "svg",
        title,
        element("style", style),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {HEIGHT}",
        role="img",
    )


def most_telling(scores: dict[str, list[float]], gfid: Sequence[float]) -> str:
    """The variant that correlates best, other than pFID and rFID themselves."""
    return max(scores.keys() - {"pFID", "rFID"}, key=lambda name: pearson_of(scores[name], gfid))


def pearson_of(x: Sequence[float], y: Sequence[float]) -> float:
    return float(pearson(np.asarray(x), np.asarray(y)))


def panel(name: str, x: Sequence[float], y: Sequence[float], measured: Sequence[Measured], left: float) -> Markup:
    """One scatter plot; every point has its number in the table."""
    to_x = axis(x, left + LEFT, left + PANEL - 16)
    to_y = axis(y, HEIGHT - BOTTOM, TOP)
    parts = [element("text", f"{name}: r = {signed(pearson_of(x, y))}", x=left + LEFT, y=TOP - 12, class_="name")]
    for tick in ticks(y):
        parts.append(line(left + LEFT, to_y(tick), left + PANEL - 16, to_y(tick)))
        if left == 0:
            parts.append(element("text", f"{tick:g}", x=left + LEFT - 6, y=to_y(tick) + 4, text_anchor="end"))
    for tick in ticks(x):
        parts.append(line(to_x(tick), HEIGHT - BOTTOM, to_x(tick), TOP))
        parts.append(element("text", f"{tick:g}", x=to_x(tick), y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    if left == 0:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = f"rotate(-90 12 {middle})"
        parts.append(element("text", "gFID, guided", x=12, y=middle, text_anchor="middle", transform=turned))
    for number, (a, b, m) in enumerate(zip(x, y, measured, strict=True), 1):
        place: dict[str, Any] = {"cx": f"{to_x(a):.1f}", "cy": f"{to_y(b):.1f}"}
        parts.append(element("circle", **place, r=4, fill=COLORS[group(m)], fill_opacity=0.85))
        parts.append(element("text", str(number), x=f"{to_x(a) + 6:.1f}", y=f"{to_y(b) - 4:.1f}"))
    return element("g", *parts)


def axis(values: Sequence[float], first: float, last: float) -> Any:
    """From value to coordinate, with some air at both ends."""
    low, high = bounds(values)
    return lambda value: first + (value - low) / (high - low) * (last - first)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    air = 0.08 * (max(values) - min(values) or 1.0)
    return min(values) - air, max(values) + air


def ticks(values: Sequence[float]) -> list[float]:
    return nice_ticks(*bounds(values))


def line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return element("line", class_="rule", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}")


def legend(width: float) -> list[Markup]:
    """Which color is which size."""
    parts = []
    for i, (name, color) in enumerate(COLORS.items()):
        at = LEFT + i * 150
        parts.append(element("circle", cx=at + 4, cy=HEIGHT - 10, r=4, fill=color))
        parts.append(element("text", name, x=at + 14, y=HEIGHT - 6))
    return parts
