"""The scores of a run: Fréchet distances on one scale, the other figures, the cells of pFID."""

from collections.abc import Callable, Iterable, Mapping

from markupsafe import Markup

from robustok.report.charts import bar
from robustok.report.html import part
from robustok.report.run import Run, find
from robustok.report.table import Cell, Column, Entry, Table
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
OF_GENERATED = {  # metric without its _before, _control or _after: name, how to read it
    "precision": ("Precision", "fraction that looks real, higher is better"),
    "recall": ("Recall", "fraction of the real variety, higher is better"),
    "density": ("Density", "higher is better"),
    "coverage": ("Coverage", "higher is better"),
    "kid": ("KID", "kernel distance, lower is better"),
}


def distances(run: Run) -> Table | None:
    """The floor, rFID, pFID, iFID, and gFID before, for the control and after, on one scale."""
    records = {metric: record for metric in DISTANCES if (record := run.score(metric))}
    if not records:
        return None
    before, whole = run.value("gfid_before"), records.get("fd_floor", {"value": None, "images": None})
    longest = max(max(r["value"], *(r["interval"] or [r["value"]])) for r in records.values())
    places = decimals(longest)
    rows: list[list[Entry]] = []
    for metric, record in records.items():
        name, meaning, color = DISTANCES[metric]
        value, bounds = record["value"], record["interval"]
        floor = whole["value"] if record["images"] == whole["images"] else None  # of other numbers it would be another
        rows.append(
            [
                Cell(name, meaning.format(latents=run.latents), kind="key" if metric == "gfid_after" else ""),
                number(value, places),
                interval(bounds, places),
                number(value / floor) if floor else BLANK,
                _change(run, metric, value, before),
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


def _change(run: Run, metric: str, value: float, before: float | None) -> Cell:
    """How much a decoder changed gFID of the same tokens or latents, and the interval of that, image by image."""
    moved = change(value, before) if metric in ("gfid_control", "gfid_after") else None
    if moved is None or not before:
        return Cell()
    paired = run.score("gfid_difference", **{"from": "before", "to": metric.removeprefix("gfid_")})
    ends = paired["interval"] if paired is not None else None
    return Cell(signed_percent(moved), " to ".join(signed_percent(end / before) for end in ends or ()))


def generated(run: Run) -> Table | None:
    """What else is known of the generated images: each score before, for the control and after."""
    shown = [when for when in ("before", "control", "after") if any(run.score(f"{m}_{when}") for m in OF_GENERATED)]
    rows: list[list[Entry]] = []
    for metric, (name, meaning) in OF_GENERATED.items():
        values = [run.value(f"{metric}_{when}") for when in shown]
        known = [abs(value) for value in values if value is not None]
        if known:
            places = 3 if max(known) >= 0.1 else 4
            rows.append([Cell(name, meaning), *(number(value, places) for value in values)])
    columns = ["Generated images", *shown]
    return Table(columns=columns, rows=rows, caption="Beside gFID: quality and variety", kind="dense") if rows else None


FIGURES: dict[str, tuple[str, Callable[[float], str], str]] = {  # metric: name, how it is written, note
    "psnr": ("PSNR", lambda value: f"{number(value)} dB", "higher is better"),
    "ssim": ("SSIM", lambda value: number(value, 3), "at most 1"),
    "codebook_use": ("Codebook use", percent, "of all codes"),
    "codebook_perplexity": ("Perplexity", lambda value: number(value, 0), "effective number of codes"),
    "seconds_total": ("Time", duration, "stages and scores"),
    "peak_rss_gib": ("Memory", lambda value: f"{number(value)} GiB", "at its peak"),
}


def figures(run: Run) -> Markup | None:
    """What is no Fréchet distance."""
    dead, codes = run.value("dead_codes"), run.setting("codebook_size")
    notes = {}
    if dead is not None:
        notes["codebook_use"] = f"{count(dead)} dead code{'s' * (dead != 1)}"
    if codes is not None:
        notes["codebook_perplexity"] = f"of at most {count(codes)}"
    shown = [
        (name, written(value), notes.get(metric, note))
        for metric, (name, written, note) in FIGURES.items()
        if (value := run.value(metric)) is not None
    ]
    return part("definitions", "figures", shown) if shown else None


def headline(run: Run) -> Mapping[str, str] | None:
    """gFID before and after, and the changes in percent."""
    before, control, after = (run.value(f"gfid_{name}") for name in ("before", "control", "after"))
    if before is None or after is None:
        return None
    places = decimals(max(before, after))
    beside = f"; the control {signed_percent(change(control, before))}" if control is not None else ""
    return {
        "before": number(before, places),
        "after": number(after, places),
        "change": f"{signed_percent(change(after, before))} by post-training{beside}",
    }


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

    def mean(values: Iterable[float], kind: str = "quiet") -> Cell:
        known = list(values)
        return Cell(number(sum(known) / len(known), places), kind=kind)

    rows: list[list[Entry]] = [
        [
            f"{ALPHA} = {alpha:g}",
            *(heat(cells, (alpha, step), lambda value: number(value, places)) for step in steps),
            mean(value for (a, _), value in cells.items() if a == alpha),
        ]
        for alpha in alphas
    ]
    means = [mean(value for (_, s), value in cells.items() if s == step) for step in steps]
    rows.append(["mean", *means, mean(cells.values(), "value")])
    columns = ["", *(f"{symbol} = {step:g}" for step in steps), "mean"]
    caption = f"Fréchet distance in each of the {len(cells)} cells"
    return Table(columns=columns, rows=rows, caption=caption, kind="heatmap")


def heat(
    cells: Mapping[tuple[float, float], float],
    place: tuple[float, float],
    written: Callable[[float], str],
    *,
    root: float = 1.0,
    kind: str = "",
) -> Cell:
    """One of some values, its shade from pale for the smallest to strong for the largest, to the power of `root`."""
    low, high, value = min(cells.values()), max(cells.values()), cells.get(place)
    if value is None:
        return Cell(None, shade=0.0, kind=kind)
    return Cell(written(value), shade=((value - low) / (high - low)) ** root if high > low else 0.0, kind=kind)
