"""The tables of an analysis, for its page and for the terminal."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from robustok.analysis.findings import cell_name, range_names, standing
from robustok.analysis.imitation import Imitation
from robustok.analysis.latents import LatentAnalysis
from robustok.analysis.tokens import Analysis
from robustok.evaluation.scores.effects import Change, Effect
from robustok.report.scores import heat
from robustok.report.table import Column, Entry, Table, TableCell
from robustok.report.text import ALPHA, DELTA, MINUS, number, percent

SHOWN_RANKS = (1, 4, 16, 64, 256, 1024)
MAIN = ("outside", "color", "detail", "fine_db")  # of the effects, what a terminal has room for


def rounded(value: float) -> str:
    """Two decimals, and no minus before a zero."""
    return number(round(value, 2) + 0.0, 2)


def milli(value: float) -> str:
    """Thousandths."""
    return rounded(1000 * value)


def three(value: float) -> str:
    return f"{value:.3g}"


Written = Callable[[Any], str]
Row = tuple[Entry, Mapping[Any, Any], Mapping[Any, Any]]  # its name, values, and intervals
DEPARTURES: dict[str, tuple[Column, Written]] = {  # field: heading, and how its value is written
    "alpha": (Column(f"Depart ({ALPHA})"), percent),
    "rank": (Column("Median rank"), lambda value: number(value, 0)),
    "delta": (Column(f"As {DELTA}"), lambda value: number(value, 0)),
    "distance": (Column("Code distance", "two codes of the codebook = 1"), lambda value: number(value, 2)),
}
CODES: dict[str, tuple[Column, Written]] = {
    "js": (Column("Jensen-Shannon", "nats"), lambda value: f"{value:.4f}"),
    "kl": (Column("KL(real, these)", "nats"), lambda value: f"{value:.4f}"),
    "perplexity": (Column("Perplexity"), lambda value: number(value, 0)),
    "used": (Column("Codes used"), percent),
    "unseen": (Column("Tokens of unseen codes"), lambda value: percent(value, 2)),
}
EFFECTS: dict[str, tuple[Column, Written]] = {
    "outside": (Column("Off the real ones", f"1 {MINUS} precision"), percent),
    "distance": (Column("Distance", "others = 1"), rounded),
    "color": (Column("Color", "Delta E"), rounded),
    "contrast": (Column("Contrast", "Delta E"), rounded),
    "detail": (Column("Detail", "dB"), rounded),
    "coarse_db": (Column("Coarse", "dB"), rounded),
    "middle_db": (Column("Middle", "dB"), rounded),
    "fine_db": (Column("Fine", "dB"), rounded),
}
TARGETS: dict[str, tuple[Column, Written]] = {
    "to_real": (Column("To real"), milli),
    "standing": (Column("pFID's cells", "nearer / as far / farther"), str),
    "to_unperturbed": (Column("To unperturbed"), milli),
    "nearest": (Column("To the best cell"), milli),
    "gain": (Column("Gain", "above 0: better than none"), milli),
    "best": (Column("Best cell"), cell_name),
    "wins": (Column("Wins", "of halves"), lambda value: percent(value, 0)),
    "range": (Column("Range", "in 95 % of halves"), str),
}
RETURNS: dict[str, tuple[Column, Written]] = {
    name: (Column(heading), three)
    for name, heading in {"own": "Own image", "nearest": "Nearest", "std": "Std", "apart": "Apart"}.items()
}


def records(
    rows: Iterable[Row],
    fields: Mapping[Any, tuple[Column, Written]],
    caption: str,
    heading: str = "Images",
    *,
    changes: bool = False,
    **more: Any,
) -> Table:
    """Name, values and intervals of each row; of `changes` with their signs, quiet where the interval holds 0."""

    def cell(value: Any, bounds: tuple[float, float] | None, written: Written) -> TableCell:
        shown = TableCell(written(value), " to ".join(map(written, bounds)) if bounds else "")
        if not changes or bounds is None:
            return shown
        text = f"+{shown.text}" if value > 0 else shown.text
        return shown._replace(text=text, kind="quiet" if bounds[0] <= 0 <= bounds[1] else "value")

    return Table(
        columns=[heading, *(column for column, _ in fields.values())],
        rows=[
            [name, *(cell(values[key], bounds.get(key), written) for key, (_, written) in fields.items())]
            for name, values, bounds in rows
        ],
        caption=caption,
        **more,
    )


def departures_table(analysis: Analysis) -> Table:
    """A row for each way to draw tokens."""
    rows: list[Row] = [(name, vars(d), {"alpha": d.interval}) for name, d in analysis.departures.items()]
    forced = analysis.forced
    said = (
        f"Under teacher forcing the real token has a probability of {number(forced.probability, 3)} (perplexity "
        f"{number(forced.perplexity)}) and the median rank {forced.rank:.0f} among the generator's predictions; it is "
        "among the likeliest " + ", ".join(f"{r} in {percent(part)}" for r, part in forced.top.items()) + "."
    )
    return records(rows, DEPARTURES, "Tokens that differ from the real image's", "Tokens", notes=[said])


def ranks_table(analysis: Analysis) -> Table | None:
    """Fraction of the departures that are among the r nearest codes."""
    codes = analysis.protocol["codebook_size"]
    ranks = [r for r in SHOWN_RANKS if r < codes - 1]
    rows: list[Row] = [(name, dict(d.within), {}) for name, d in analysis.departures.items() if d.within]
    rows.append(("Codes picked at random", {r: r / (codes - 1) for r in ranks}, {}))
    fields = {r: (Column(f"{r} nearest"), percent) for r in ranks}
    caption = "How far departures go, by neighbor rank"
    return records(rows, fields, caption, "Of the departures", kind="dense") if ranks else None


def codes_table(analysis: Analysis) -> Table:
    """Divergences of code use from the real images', and what becomes of them between real images."""
    rows: list[Row] = [(name.capitalize(), vars(usage), {}) for name, usage in analysis.code_usage.items()]
    return records(rows, CODES, "Use of the codes beside that of real images")


def targets_table(analysis: Analysis) -> Table:
    """The best cell of each target in each view."""
    rows = [
        (
            TableCell(target.name.capitalize(), f"view: {target.view}"),
            vars(target)
            | {"standing": " / ".join(map(str, standing(analysis, target))), "nearest": min(target.cells)}
            | {"range": " to ".join(range_names(target))},
            {"to_real": target.real_interval, "gain": target.gain_interval},
        )
        for target in analysis.imitation.targets
    ]
    floor = ", ".join(f"{view} {milli(value)}" for view, value in analysis.imitation.floor.items())
    caption = f"Squared MMD, in thousandths (two sets of real images: {floor})"
    return records(rows, TARGETS, caption, "Latents", kind="dense")


def grid_table(imitation: Imitation, values: tuple[float, ...], caption: str, beside: float) -> Table:
    """MMD in each cell, beside that of something else: a row for each alpha, pFID's cells outlined."""
    cells = {(cell[0], float(cell[1])): value for cell, value in zip(imitation.grid, values, strict=True)}
    pfid = {(cell[0], float(cell[1])) for cell, known in zip(imitation.grid, imitation.in_pfid, strict=True) if known}
    alphas, deltas = (sorted(set(axis)) for axis in zip(*cells, strict=True))
    # shaded by the root, or the largest would leave the small ones, which matter, without a difference
    rows: list[list[Entry]] = [
        [
            f"{ALPHA} = {alpha:g}",
            *(heat(cells, (alpha, d), milli, root=0.5, kind="within" if (alpha, d) in pfid else "") for d in deltas),
        ]
        for alpha in alphas
    ]
    columns = ["", *(f"{DELTA} = {delta:g}" for delta in deltas)]
    return Table(columns=columns, rows=rows, caption=f"{caption}: {milli(beside)}", kind="heatmap fine")


def effects_table(effects: Iterable[Effect], names: Iterable[str] = EFFECTS, *, bounds: bool = True) -> Table:
    """Numbers of every set, with their intervals if asked."""
    rows = [(_set(effect), effect.values, effect.intervals if bounds else {}) for effect in effects]
    return records(rows, {name: EFFECTS[name] for name in names}, "Images beside the real ones", kind="dense")


def changes_table(changes: Iterable[Change]) -> Table | None:
    """The tuned decoder less the original one."""
    rows = [(change.images.capitalize(), change.values, change.intervals) for change in changes]
    caption = "Tuned less original; bold where the 95 % interval leaves out 0"
    return records(rows, EFFECTS, caption, changes=True, kind="dense") if rows else None


def colors_table(effects: Iterable[Effect]) -> Table:
    """Wasserstein-1 distances of L*, a*, b*, and which way they moved."""

    def signed(shift: float) -> str:
        return f"+{rounded(shift)}" if round(shift, 2) > 0 else rounded(shift)

    rows = [
        [_set(effect), *(TableCell(rounded(d), signed(by)) for d, by in zip(effect.colors, effect.shifts, strict=True))]
        for effect in effects
    ]
    columns = [f"{kind} {channel}" for kind in ("Mean", "Std") for channel in ("L*", "a*", "b*")]
    caption = "CIELAB by channel: Wasserstein-1 distance, and the shift of the mean below"
    return Table(columns=["Images", *columns], rows=rows, caption=caption, kind="dense")


def latent_tables(analysis: LatentAnalysis) -> list[Table]:
    """Latents that come back from noise, and channels."""
    back = [(f"{r.how}, noise level {r.level:g}", vars(r), {"apart": r.apart_interval}) for r in analysis.returns]
    returns = f"Latents that come back from noise (squared MMD of two real sets: {analysis.floor:.3g})"
    sets = {"Generated": (analysis.shift, analysis.std), "Other real": (analysis.shift_floor, analysis.std_floor)}
    rows = [[name, three(max(map(abs, m))), three(min(s)), three(max(s))] for name, (m, s) in sets.items()]
    columns = ["", "Mean, farthest off", "Least std", "Largest std"]
    channels = "Channels of generated latents, in real standard deviations"
    return [records(back, RETURNS, returns, ""), Table(columns=columns, rows=rows, caption=channels)]


def _set(effect: Effect) -> TableCell:
    return (
        TableCell(effect.images.capitalize(), f"{effect.decoder} decoder")
        if effect.decoder
        else TableCell("Other real images")
    )
