"""The tables of an analysis."""

import math
from collections.abc import Iterable

from robustok.evaluation.analysis.analyze import Analysis
from robustok.evaluation.analysis.departures import Departures
from robustok.evaluation.analysis.effects import Change, Effect
from robustok.evaluation.analysis.imitation import Target
from robustok.report.findings import cell_name, standing
from robustok.report.markup import ALPHA, BLANK, DELTA, MINUS, Markup, element, number, percent
from robustok.report.tables import cell, definitions, head, row, shade, table

SHOWN_RANKS = (1, 4, 16, 64, 256, 1024)
NAMES = {
    "outside": ("Off the real ones", f"1 {MINUS} precision"),
    "distance": ("Distance", "others = 1"),
    "color": ("Color", "Delta E"),
    "contrast": ("Contrast", "Delta E"),
    "detail": ("Detail", "dB"),
    "coarse_db": ("Coarse", "dB"),
    "middle_db": ("Middle", "dB"),
    "fine_db": ("Fine", "dB"),
}


def departures_table(analysis: Analysis) -> Markup:
    """A row for each way to draw tokens."""
    rows = [
        row(
            head(name, element("small", note), scope="row"),
            cell(percent(d.alpha), element("small", f"{percent(d.interval[0])} to {percent(d.interval[1])}")),
            cell(number(d.rank, 0)),
            cell(BLANK if d.delta is None else str(d.delta)),
            cell(number(d.distance, 2)),
        )
        for name, note, d in ways(analysis)
    ]
    heads = row(
        head("Tokens"),
        head(f"Depart ({ALPHA})", class_="n"),
        head("Median rank", class_="n"),
        head(f"As {DELTA}", class_="n"),
        head("Code distance", element("small", "two codes of the codebook = 1"), class_="n"),
    )
    forced = analysis.forced
    said = (
        f"Under teacher forcing the real token has a probability of {number(forced.probability, 3)} (perplexity "
        f"{number(forced.perplexity)}) and the median rank {forced.rank:.0f} among the generator's predictions; it is "
        "among the likeliest " + ", ".join(f"{r} in {percent(share)}" for r, share in forced.top.items()) + "."
    )
    return element(
        "div", table("Departures from the real image's tokens", [heads], rows), element("p", said, class_="said")
    )


def ways(analysis: Analysis) -> list[tuple[str, str, Departures]]:
    """(name, how it was drawn, what came out), the closest to real images first."""
    n = analysis.protocol["tokens_per_image"]
    return [
        ("Teacher forcing", "drawn, given the real tokens before", analysis.forced.sampled),
        ("Teacher forcing, likeliest", "argmax instead of a draw", analysis.forced.likeliest),
        *(
            ("Free running", f"after {d.first} real tokens of {n}" if d.first else "from the label alone", d)
            for d in reversed(analysis.free)
        ),
        ("Another real image", "of the same class", analysis.other_real),
    ]


def ranks_table(analysis: Analysis) -> Markup | None:
    """How many departures are among the r nearest codes."""
    codes = analysis.protocol["codebook_size"]
    ranks = [r for r in SHOWN_RANKS if r < codes - 1]
    sets = [("Teacher forcing", analysis.forced.sampled), ("From the label alone", analysis.free[0])]
    sets.append(("Another real image", analysis.other_real))
    rows = [
        row(head(name, scope="row"), *(cell(percent(dict(d.within)[r])) for r in ranks)) for name, d in sets if d.within
    ]
    rows.append(row(head("Codes picked at random", scope="row"), *(cell(percent(r / (codes - 1))) for r in ranks)))
    heads = row(head("Of the departures"), *(head(f"{r} nearest", class_="n") for r in ranks))
    return table("How far departures go, by neighbour rank", [heads], rows, "dense") if ranks else None


def code_figures(analysis: Analysis) -> Markup | None:
    u = analysis.code_usage
    return definitions(
        "figures",
        ("Jensen-Shannon", f"{u.js:.4f}", f"nats; floor {u.js_floor:.4f}"),
        ("KL(real, generated)", f"{u.kl:.4f}", f"nats; floor {u.kl_floor:.4f}"),
        ("Perplexity", number(u.perplexity_generated, 0), f"real: {number(u.perplexity_real, 0)}"),
        ("Codes used", percent(u.used_generated), f"real: {percent(u.used_real)}"),
        ("Tokens of unseen codes", percent(u.unseen, 2), f"floor {percent(u.unseen_floor, 2)}"),
    )


def targets_table(analysis: Analysis) -> Markup:
    """The best cell of each target in each view."""
    names = {"generated": "Generated", "forced": "Teacher forcing"}
    rows = []
    for target in analysis.imitation.targets:
        nearer, as_far, farther = standing(analysis.imitation, target)
        best = "n value" if target.gain_interval[0] > 0 else "n quiet"
        rows.append(
            row(
                head(names.get(target.name, target.name), element("small", f"view: {target.view}"), scope="row"),
                cell(milli(target.to_real), element("small", " to ".join(map(milli, target.real_interval)))),
                cell(f"{nearer} / {as_far} / {farther}"),
                cell(milli(target.to_unperturbed)),
                cell(
                    milli(min(target.cells)), element("small", f"gain {' to '.join(map(milli, target.gain_interval))}")
                ),
                cell(
                    cell_name(target.best),
                    element("small", f"wins {percent(target.wins, 0)}"),
                    element("small", f"{ALPHA} {_span(target.alphas)}, {DELTA} {_span(target.deltas)}"),
                    class_=best,
                ),
            )
        )
    heads = row(
        head("Latents"),
        head("To real", class_="n"),
        head("pFID's cells", element("small", "nearer / as far / farther"), class_="n"),
        head("To unperturbed", class_="n"),
        head("To the best cell", class_="n"),
        head("Best cell", element("small", "bold: better than none; in 95 % of halves"), class_="n"),
    )
    floor = ", ".join(f"{view} {milli(value)}" for view, value in analysis.imitation.floor.items())
    return table(f"Squared MMD, in thousandths (two sets of real images: {floor})", [heads], rows)


def cells_table(analysis: Analysis, target: Target) -> Markup:
    """MMD to the generated latents in each cell."""
    return _grid(
        analysis,
        target.cells,
        f"From generated to perturbed latents, in thousandths of squared MMD ({target.view}); unperturbed: "
        f"{milli(target.to_unperturbed)}",
    )


def far_table(analysis: Analysis, target: Target) -> Markup:
    """MMD to real latents in each cell."""
    return _grid(
        analysis,
        analysis.imitation.from_real[target.view],
        f"From real to perturbed latents, likewise; generated: {milli(target.to_real)}",
    )


def _grid(analysis: Analysis, values: Iterable[float], caption: str) -> Markup:
    """A row for each alpha, a column for each delta."""
    imitation = analysis.imitation
    by_cell = dict(zip(imitation.grid, values, strict=True))
    pfid = {c for c, inside in zip(imitation.grid, imitation.in_pfid, strict=True) if inside}
    low, high = min(by_cell.values()), max(by_cell.values())
    alphas, deltas = (sorted({c[i] for c in by_cell}) for i in range(2))
    rows = []
    for alpha in alphas:
        cells = []
        for delta in deltas:
            c = next(c for c in by_cell if c == (alpha, delta))
            # by their roots, or the largest would leave the small ones, which matter, without a difference
            share = math.sqrt((by_cell[c] - low) / (high - low)) if high > low else 0.0
            kind = "heat within" if c in pfid else "heat"
            cells.append(cell(milli(by_cell[c]), class_=kind, style=f"background:{shade(share)}"))
        rows.append(row(head(f"{ALPHA} = {alpha:g}", scope="row"), *cells))
    heads = row(element("td"), *(head(f"{DELTA} = {delta}", class_="n") for delta in deltas))
    return table(caption, [heads], rows, "heatmap fine")


def effects_table(effects: Iterable[Effect]) -> Markup:
    rows = [
        row(
            head(_set_name(effect.images), element("small", _decoder(effect.decoder)), scope="row"),
            *(
                cell(_shown(name, effect.values[name]), element("small", _bounds(name, effect.intervals[name])))
                for name in NAMES
            ),
        )
        for effect in effects
    ]
    return table("Every set against real images", [_effect_heads()], rows, "dense")


def colors_table(effects: Iterable[Effect]) -> Markup:
    """Wasserstein-1 distances of L*, a*, b*, and which way they moved."""
    rows = [
        row(
            head(_set_name(effect.images), element("small", _decoder(effect.decoder)), scope="row"),
            *(
                cell(number(distance, 2), element("small", _signed(shift)))
                for distance, shift in zip(effect.colors, effect.shifts, strict=True)
            ),
        )
        for effect in effects
    ]
    names = [f"{kind} {channel}" for kind in ("Mean", "Spread") for channel in ("L*", "a*", "b*")]
    heads = row(head("Images"), *(head(name, class_="n") for name in names))
    return table("CIELAB by channel: Wasserstein-1 distance, and the shift of the mean below", [heads], rows, "dense")


def changes_table(changes: Iterable[Change]) -> Markup | None:
    rows = []
    for change in changes:
        cells = []
        for name in NAMES:
            low, high = change.intervals[name]
            kind = "n quiet" if low <= 0 <= high else "n value"
            value = _shown(name, change.values[name], signed=True)
            cells.append(cell(value, element("small", _bounds(name, (low, high))), class_=kind))
        rows.append(row(head(_set_name(change.images), scope="row"), *cells))
    if not rows:
        return None
    caption = "Tuned less original; bold where the 95 % interval leaves out 0"
    return table(caption, [_effect_heads()], rows, "dense")


def milli(value: float) -> str:
    """Thousandths, and no minus before a zero."""
    return number(round(1000 * value, 2) + 0.0, 2)


def _effect_heads() -> Markup:
    return row(head("Images"), *(head(name, element("small", note), class_="n") for name, note in NAMES.values()))


def _set_name(name: str) -> str:
    return {"real": "Other real images"}.get(name, name.capitalize())


def _decoder(name: str) -> str | None:
    return f"{name} decoder" if name else None


def _shown(name: str, value: float, signed: bool = False) -> str:
    text = percent(value) if name == "outside" else number(round(value, 2) + 0.0, 2)
    return f"+{text}" if signed and value > 0 else text


def _signed(value: float) -> str:
    """With its sign, unless it rounds to 0."""
    rounded = round(value, 2) + 0.0
    return f"+{rounded:.2f}" if rounded > 0 else number(rounded, 2)


def _bounds(name: str, bounds: tuple[float, float]) -> str:
    return f"{_shown(name, bounds[0])} to {_shown(name, bounds[1])}"


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
