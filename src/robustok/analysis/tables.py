"""The tables of an analysis."""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from robustok.analysis.departures import Departures
from robustok.analysis.effects import Change, Effect
from robustok.analysis.findings import cell_name, standing
from robustok.analysis.imitation import Target
from robustok.analysis.tokens import Analysis
from robustok.report.html import part
from robustok.report.scores import heat
from robustok.report.table import Cell, Column, Entry, Table
from robustok.report.text import ALPHA, DELTA, MINUS, number, percent

SHOWN_RANKS = (1, 4, 16, 64, 256, 1024)
NUMBERS = {  # of effects: name, unit
    "outside": ("Off the real ones", f"1 {MINUS} precision"),
    "distance": ("Distance", "others = 1"),
    "color": ("Color", "Delta E"),
    "contrast": ("Contrast", "Delta E"),
    "detail": ("Detail", "dB"),
    "coarse_db": ("Coarse", "dB"),
    "middle_db": ("Middle", "dB"),
    "fine_db": ("Fine", "dB"),
}
EFFECTS: list[Column | str] = ["Images", *(Column(name, unit) for name, unit in NUMBERS.values())]
TARGETS = {"generated": "Generated", "forced": "Teacher forcing"}


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


def departures_table(analysis: Analysis) -> Table:
    """A row for each way to draw tokens."""
    rows = [
        [
            Cell(name, note),
            Cell(percent(d.alpha), f"{percent(d.interval[0])} to {percent(d.interval[1])}"),
            number(d.rank, 0),
            None if d.delta is None else str(d.delta),
            number(d.distance, 2),
        ]
        for name, note, d in ways(analysis)
    ]
    columns = ["Tokens", f"Depart ({ALPHA})", "Median rank", f"As {DELTA}"]
    distance = Column("Code distance", "two codes of the codebook = 1")
    forced = analysis.forced
    said = (
        f"Under teacher forcing the real token has a probability of {number(forced.probability, 3)} (perplexity "
        f"{number(forced.perplexity)}) and the median rank {forced.rank:.0f} among the generator's predictions; it is "
        "among the likeliest " + ", ".join(f"{r} in {percent(share)}" for r, share in forced.top.items()) + "."
    )
    caption = "Departures from the real image's tokens"
    return Table(columns=[*columns, distance], rows=rows, caption=caption, notes=[said])


def ranks_table(analysis: Analysis) -> Table | None:
    """How many departures are among the r nearest codes."""
    codes = analysis.protocol["codebook_size"]
    ranks = [r for r in SHOWN_RANKS if r < codes - 1]
    sets = {
        "Teacher forcing": analysis.forced.sampled,
        "From the label alone": analysis.free[0],
        "Another real image": analysis.other_real,
    }
    rows = [[name, *(percent(dict(d.within)[r]) for r in ranks)] for name, d in sets.items() if d.within]
    rows.append(["Codes picked at random", *(percent(r / (codes - 1)) for r in ranks)])
    columns = ["Of the departures", *(f"{r} nearest" for r in ranks)]
    caption = "How far departures go, by neighbor rank"
    return Table(columns=columns, rows=rows, caption=caption, kind="dense") if ranks else None


def code_figures(analysis: Analysis) -> Markup:
    """Divergences of code use and what becomes of them between real images."""
    u = analysis.code_usage
    figures = [
        ("Jensen-Shannon", f"{u.js:.4f}", f"nats; floor {u.js_floor:.4f}"),
        ("KL(real, generated)", f"{u.kl:.4f}", f"nats; floor {u.kl_floor:.4f}"),
        ("Perplexity", number(u.perplexity_generated, 0), f"real: {number(u.perplexity_real, 0)}"),
        ("Codes used", percent(u.used_generated), f"real: {percent(u.used_real)}"),
        ("Tokens of unseen codes", percent(u.unseen, 2), f"floor {percent(u.unseen_floor, 2)}"),
    ]
    return part("definitions", "figures", figures)


def targets_table(analysis: Analysis) -> Table:
    """The best cell of each target in each view."""
    rows: list[list[Entry]] = []
    for target in analysis.imitation.targets:
        ranges = f"{ALPHA} {_span(target.alphas)}, {DELTA} {_span(target.deltas)}"
        best = f"wins {percent(target.wins, 0)}\n{ranges}"
        rows.append(
            [
                Cell(TARGETS.get(target.name, target.name), f"view: {target.view}"),
                Cell(milli(target.to_real), " to ".join(map(milli, target.real_interval))),
                " / ".join(map(str, standing(analysis.imitation, target))),
                milli(target.to_unperturbed),
                Cell(milli(min(target.cells)), f"gain {' to '.join(map(milli, target.gain_interval))}"),
                Cell(cell_name(target.best), best, kind="value" if target.gain_interval[0] > 0 else "quiet"),
            ]
        )
    columns: list[Column | str] = [
        "Latents",
        "To real",
        Column("pFID's cells", "nearer / as far / farther"),
        "To unperturbed",
        "To the best cell",
        Column("Best cell", "bold: better than none; in 95 % of halves"),
    ]
    floor = ", ".join(f"{view} {milli(value)}" for view, value in analysis.imitation.floor.items())
    caption = f"Squared MMD, in thousandths (two sets of real images: {floor})"
    return Table(columns=columns, rows=rows, caption=caption)


def cells_table(analysis: Analysis, target: Target) -> Table:
    """MMD to the generated latents in each cell."""
    caption = f"From generated to perturbed latents, in thousandths of squared MMD ({target.view}); unperturbed: "
    return _grid(analysis, target.cells, caption + milli(target.to_unperturbed))


def far_table(analysis: Analysis, target: Target) -> Table:
    """MMD to real latents in each cell."""
    caption = f"From real to perturbed latents, likewise; generated: {milli(target.to_real)}"
    return _grid(analysis, analysis.imitation.from_real[target.view], caption)


def _grid(analysis: Analysis, values: Iterable[float], caption: str) -> Table:
    """A row for each alpha, a column for each delta; pFID's cells are outlined."""
    imitation = analysis.imitation
    cells: Mapping[Any, float] = dict(zip(imitation.grid, values, strict=True))
    pfid: Mapping[Any, bool] = dict(zip(imitation.grid, imitation.in_pfid, strict=True))
    alphas, deltas = (sorted({c[i] for c in cells}) for i in range(2))

    def cell(alpha: float, delta: float) -> Cell:
        # shaded by the root, or the largest would leave the small ones, which matter, without a difference
        kind = "within" if pfid[alpha, delta] else ""
        return heat(cells, (alpha, delta), milli, root=0.5, kind=kind)

    rows: list[list[Entry]] = [[f"{ALPHA} = {alpha:g}", *(cell(alpha, delta) for delta in deltas)] for alpha in alphas]
    columns = ["", *(f"{DELTA} = {delta}" for delta in deltas)]
    return Table(columns=columns, rows=rows, caption=caption, kind="heatmap fine")


def effects_table(effects: Iterable[Effect]) -> Table:
    """Every set's numbers and their intervals."""
    rows = [
        [_set(effect), *(Cell(_shown(n, effect.values[n]), _bounds(n, effect.intervals[n])) for n in NUMBERS)]
        for effect in effects
    ]
    return Table(columns=EFFECTS, rows=rows, caption="Every set against real images", kind="dense")


def colors_table(effects: Iterable[Effect]) -> Table:
    """Wasserstein-1 distances of L*, a*, b*, and which way they moved."""
    rows = [
        [
            _set(effect),
            *(Cell(number(d, 2), _signed(shift)) for d, shift in zip(effect.colors, effect.shifts, strict=True)),
        ]
        for effect in effects
    ]
    columns = [f"{kind} {channel}" for kind in ("Mean", "Spread") for channel in ("L*", "a*", "b*")]
    caption = "CIELAB by channel: Wasserstein-1 distance, and the shift of the mean below"
    return Table(columns=["Images", *columns], rows=rows, caption=caption, kind="dense")


def changes_table(changes: Iterable[Change]) -> Table | None:
    """The tuned decoder less the original one."""

    def cell(change: Change, name: str) -> Cell:
        low, high = change.intervals[name]
        value = _shown(name, change.values[name], signed=True)
        return Cell(value, _bounds(name, (low, high)), kind="quiet" if low <= 0 <= high else "value")

    rows: list[list[Entry]] = [
        [_set_name(change.images), *(cell(change, name) for name in NUMBERS)] for change in changes
    ]
    caption = "Tuned less original; bold where the 95 % interval leaves out 0"
    return Table(columns=EFFECTS, rows=rows, caption=caption, kind="dense") if rows else None


def milli(value: float) -> str:
    """Thousandths, and no minus before a zero."""
    return number(round(1000 * value, 2) + 0.0, 2)


def _set(effect: Effect) -> Cell:
    return Cell(_set_name(effect.images), f"{effect.decoder} decoder" if effect.decoder else "")


def _set_name(name: str) -> str:
    return {"real": "Other real images"}.get(name, name.capitalize())


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
