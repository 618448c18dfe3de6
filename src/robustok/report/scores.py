"""The scores of a run: Fréchet distances on one scale, the other figures, the cells of pFID, each feature space."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from markupsafe import Markup

from robustok.evaluation.scores.metric_names import VARIANTS, metric_named
from robustok.report.charts import bar
from robustok.report.html import part
from robustok.report.run import Run, find
from robustok.report.table import Column, Entry, Table, TableCell
from robustok.report.text import (
    ALPHA,
    BLANK,
    DELTA,
    TIMES,
    change,
    count,
    decimals,
    duration,
    interval,
    number,
    percent,
    signed,
    signed_percent,
)

DISTANCES = {  # metric: name, what is compared with real images (`Run.latents` in braces), color of its bar
    "fd_floor": ("Floor", "other real images", "floor"),
    "rfid": ("rFID", "reconstructions", "line"),
    "rfid_pfid_images": ("rFID, as pFID", "reconstructions, of pFID's images only", "line"),
    "pfid": ("pFID", "reconstructions from perturbed {latents}", "line"),
    "ifid": ("iFID", "midpoints of neighboring latents", "line"),
    "gfid_before": ("gFID before", "generated, decoder of main training", "before"),
    "gfid_control": ("gFID control", "same {latents}, decoder trained on clean latents", "control"),
    "gfid_after": ("gFID after", "same {latents}, post-trained decoder", "after"),
}
TUNED = {"gfid_control": "control", "gfid_after": "post_training"}  # metric: the stage that made its decoder
KEPT = "same {latents}, original decoder, which post-training kept"
OF_GENERATED = {  # metric without its _before, _control or _after: name, how to read it
    "precision": ("Precision", "fraction that looks real, higher is better"),
    "recall": ("Recall", "fraction of the real variety, higher is better"),
    "density": ("Density", "higher is better"),
    "coverage": ("Coverage", "higher is better"),
    "kid": ("KID", "kernel distance, lower is better"),
    "vendi": ("Vendi score", "effective number of different images, higher is better"),
}
Written = Callable[[float], str]
TWO, THREE = partial(number, places=2), partial(number, places=3)
EYE: dict[str, tuple[str, Written, str, str]] = {  # metric: unit, how it is written, falling and rising in words
    "off_manifold": ("like no real image", percent, "fewer such images", "more such images"),
    "color": ("distance of mean colors, Delta E", TWO, "colors nearer to real ones", "colors farther from them"),
    "contrast": ("distance of their spread, Delta E", TWO, "contrast nearer", "contrast farther"),
    "detail": ("distance of spectra, dB", TWO, "detail nearer to real images'", "detail farther from theirs"),
    "fine_detail": ("power in the finest octave, dB", TWO, "less of it", "more of it"),
}
FRACTIONS = ("precision", "recall", "density", "coverage")
FIGURES: dict[str, tuple[str, Written, str]] = {  # metric: name, how it is written, note
    "psnr": ("PSNR", lambda value: f"{number(value)} dB", "higher is better"),
    "ssim": ("SSIM", THREE, "at most 1"),
    "codebook_use": ("Codebook use", percent, "of all codes"),
    "codebook_perplexity": ("Perplexity", lambda value: number(value, 0), "effective number of codes"),
    "steps_to_gfid": ("Steps to gFID", count, "of the generator"),
    "seconds_total": ("Time", duration, "stages and scores"),
    "peak_rss_gib": ("Memory", lambda value: f"{number(value)} GiB", "at its peak"),
}


def distances_table(run: Run) -> Table | None:
    """The floor, rFID, pFID, iFID, and gFID before, for the control and after, on one scale."""
    records = {metric: record for metric in DISTANCES if (record := run.score(metric))}
    if not records:
        return None
    whole = records.get("fd_floor", {"value": None, "images": None})
    longest = max(max(r["value"], *(r["interval"] or [r["value"]])) for r in records.values())
    places = decimals(longest)
    rows: list[list[Entry]] = []
    for metric, record in records.items():
        name, meaning, color = DISTANCES[metric]
        meaning = KEPT if metric in TUNED and run.kept(TUNED[metric]) else meaning
        value, bounds = record["value"], record["interval"]
        floor = whole["value"] if record["images"] == whole["images"] else None  # of other numbers it would be another
        decoder = metric.removeprefix("gfid_")
        rows.append(
            [
                TableCell(name, meaning.format(latents=run.latents), kind="key" if metric == "gfid_after" else ""),
                number(value, places),
                interval(bounds, places),
                number(value / floor) if floor else BLANK,
                gain(run, "gfid", decoder) if decoder in ("control", "after") else "",
                bar(value, longest, color=color, floor=floor, bounds=bounds),
            ]
        )
    columns: list[Column | str] = [
        "Real images against",
        Column("Distance", kind="value"),
        Column("95 % interval", kind="quiet"),
        Column(f"{TIMES} floor", kind="quiet wide"),
        Column("Change", "against before, paired 95 %", kind="value"),
        Column("On one scale", "from 0; dashed: the floor", kind="wide", chart=True),
    ]
    return Table(columns=columns, rows=rows, caption="Fréchet distances, lower is better", kind="distances")


def gain(run: Run, metric: str, decoder: str, **protocol: str) -> TableCell:
    """The change of a distance by a decoder, of the same tokens or latents, and the interval of that, paired."""
    values = run.values(metric, **protocol)
    moved, before = change(values[decoder], values["before"]), values["before"]
    paired = run.score(f"{metric}_difference", **protocol, **{"from": "before", "to": decoder})
    ends = paired["interval"] if paired is not None and before else None
    return TableCell(moved if moved is None else signed_percent(moved), _span(ends, before))


def _span(ends: Sequence[float] | None, before: float | None) -> str:
    return " to ".join(signed_percent(end / before) for end in ends) if ends and before else ""


def generated_table(run: Run) -> Table | None:
    """The other scores of generated images: each before, for the control and after."""
    shown = [decoder for decoder in VARIANTS if any(run.score(f"{m}_{decoder}") for m in OF_GENERATED)]
    rows: list[list[Entry]] = []
    for metric, (name, meaning) in OF_GENERATED.items():
        values = run.values(metric)
        if known := [abs(value) for value in values.values() if value is not None]:
            places = 3 if max(known) >= 0.1 else 4
            rows.append([TableCell(name, meaning), *(number(values[decoder], places) for decoder in shown)])
    columns = ["Generated images", *shown]
    return Table(columns=columns, rows=rows, caption="Beside gFID: quality and variety", kind="dense") if rows else None


def spaces_table(run: Run) -> Table | None:
    """A group of rows for each feature space, trained in or held out; nothing where there is only one space."""
    shown = [decoder for decoder in VARIANTS if run.score(f"gfid_{decoder}")]
    held_out: dict[str, bool] = {}
    for record in (record for decoder in shown for record in find(run.scores, f"gfid_{decoder}")):
        if name := record["protocol"].get("features"):
            held_out[name] = held_out.get(name, False) or bool(record["protocol"].get("held_out"))
    if len(held_out) < 2:
        return None
    rows: list[list[Entry]] = []
    for space, out in held_out.items():
        said = "held out: nothing was trained in it" if out else "trained in"
        rows.append([TableCell(space, said, kind="key", span=len(shown) + 2)])
        for metric in ("gfid", *FRACTIONS):
            values = run.values(metric, features=space)
            known, (before, _, after) = [v for v in values.values() if v is not None], values.values()
            if not known:
                continue
            places, last = decimals(max(known)), gain(run, metric, "after", features=space)
            if metric in FRACTIONS:
                moved = None if before is None or after is None else signed(after - before, THREE)
                places, last = 3, TableCell(moved)
            head = TableCell(metric_named(metric).label, f"{metric_named(metric).better} is better")
            rows.append([head, *(number(values[decoder], places) for decoder in shown), last])
    change_column = Column("After", "against before, paired 95 %", kind="value")
    columns: list[Column | str] = ["Generated images, in each feature space", *shown, change_column]
    caption = "The space that was trained in, and those that were not"
    return Table(columns=columns, rows=rows, caption=caption, kind="dense")


def effects(run: Run) -> Table | None:
    """What an eye sees of generated images under each decoder, measured, and what changed in words."""
    shown = [decoder for decoder in VARIANTS if run.score(f"off_manifold_{decoder}")]
    if "before" not in shown or "after" not in shown:
        return None
    rows: list[list[Entry]] = []
    for metric, (unit, written, less, more) in EYE.items():
        values = run.values(metric)
        paired = run.score(f"{metric}_difference", **{"from": "before", "to": "after"})
        ends = paired["interval"] if paired else None
        words = "within the noise" if not ends or ends[0] <= 0 <= ends[1] else less if ends[1] < 0 else more
        words = "nothing: the original decoder was kept" if run.kept("post_training") else words
        span = f"{signed(ends[0], written)} to {signed(ends[1], written)}" if ends else ""
        known = [None if value is None else written(value) for value in (values[name] for name in shown)]
        real = run.value(f"{metric}_floor")
        head = TableCell(metric_named(metric).label, unit)
        rows.append([head, *known, None if real is None else written(real), TableCell(words, span)])
    columns: list[Column | str] = [
        "Generated images",
        *shown,
        Column("Real", "other real images", kind="quiet"),
        Column("What changed", "paired 95 %", kind="value"),
    ]
    return Table(columns=columns, rows=rows, caption="What an eye would say, measured", kind="dense")


def copies(run: Run) -> Table | None:
    """How many generated images are no copies of training images, beside held-out images, none of which is one."""
    names = {"authpct": "Generated", "authpct_held_out": "Real, never trained on"}
    found = {name: record for metric, name in names.items() if (record := run.score(metric))}
    if not found:
        return None
    rows: list[list[Entry]] = [
        [name, number(record["value"]), interval(record["interval"], 1), count(record["images"])]
        for name, record in found.items()
    ]
    spaces = ", ".join(sorted({str(record["protocol"].get("features")) for record in found.values()}))
    note = (
        "Authentic is an image that is farther from its nearest training image than that is from its own nearest "
        f"(AuthPct, arXiv 2102.08921), measured in {spaces}. Fewer than among real images that were never trained on "
        "would tell of copies."
    )
    quiet = (Column("95 % interval", kind="quiet"), Column("Of", kind="quiet"))
    columns: list[Column | str] = ["Images", Column("Authentic", "%"), *quiet]
    return Table(columns=columns, rows=rows, caption="Does it copy?", kind="dense", notes=[note])


def figures(run: Run) -> Markup | None:
    """The figures that are no Fréchet distance."""
    dead, codes = run.value("dead_codes"), run.codes
    notes = {}
    if dead is not None:
        notes["codebook_use"] = f"{count(dead)} dead code{'s' * (dead != 1)}"
    if codes is not None:
        notes["codebook_perplexity"] = f"of at most {count(codes)}"
    if (steps := run.score("steps_to_gfid")) and "at_or_below" in steps["protocol"]:
        notes["steps_to_gfid"] = f"until a validation found {steps['protocol']['at_or_below']:g} or less"
    shown = [
        (name, written(value), notes.get(metric, note))
        for metric, (name, written, note) in FIGURES.items()
        if (value := run.value(metric)) is not None
    ]
    return part("definitions", "figures", shown) if shown else None


def heat_map(run: Run) -> Table | None:
    """The cells of pFID: a row per alpha, a column per delta or strength, the darker the larger; means at the edges."""
    axis, symbol = ("strength", "s") if run.latents == "latents" else ("delta", DELTA)
    cells = {
        (float(r["protocol"]["alpha"]), float(r["protocol"][axis])): float(r["value"])
        for r in find(run.scores, "pfid_cell")
        if {"alpha", axis} <= r["protocol"].keys()
    }
    if not cells:
        return None
    alphas, steps = sorted({alpha for alpha, _ in cells}, reverse=True), sorted({step for _, step in cells})
    places = decimals(max(cells.values()))

    def mean(values: Iterable[float], kind: str = "quiet") -> TableCell:
        known = list(values)
        return TableCell(number(sum(known) / len(known), places), kind=kind)

    rows: list[list[Entry]] = []
    for alpha in alphas:
        row = (heat(cells, (alpha, step), lambda value: number(value, places)) for step in steps)
        rows.append([f"{ALPHA} = {alpha:g}", *row, mean(value for (a, _), value in cells.items() if a == alpha)])
    means = [mean(value for (_, s), value in cells.items() if s == step) for step in steps]
    rows.append(["mean", *means, mean(cells.values(), "value")])
    columns = ["", *(f"{symbol} = {step:g}" for step in steps), "mean"]
    caption = f"Fréchet distance in each of the {len(cells)} cells"
    return Table(columns=columns, rows=rows, caption=caption, kind="heatmap")


def heat(
    cells: Mapping[tuple[float, float], float],
    place: tuple[float, float],
    written: Written,
    *,
    root: float = 1.0,
    kind: str = "",
) -> TableCell:
    """One of some values, its shade from pale for the smallest to strong for the largest, to the power of `root`."""
    low, high, value = min(cells.values()), max(cells.values()), cells.get(place)
    if value is None:
        return TableCell(None, shade=0.0, kind=kind)
    return TableCell(written(value), shade=((value - low) / (high - low)) ** root if high > low else 0.0, kind=kind)
