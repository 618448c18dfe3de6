"""What `robustok analyze` prints of an analysis."""

from collections.abc import Sequence

from robustok.analysis.findings import findings
from robustok.analysis.latents import LatentAnalysis
from robustok.analysis.tables import NUMBERS, ways
from robustok.analysis.tokens import Result
from robustok.report.table import Column, Table
from robustok.report.text import ALPHA, percent

WIDTH = 100  # columns of a line, at most


def of_tokens(result: Result) -> str:
    """Departures, effects, and what was found in sentences."""
    analysis = result.analysis
    departed = [
        (f"{name}, {note}", f"{percent(d.alpha):>8}   median rank {'-' if d.rank is None else f'{d.rank:.0f}'}")
        for name, note, d in ways(analysis)
    ]
    shown = ("outside", "color", "detail", "fine_db")
    effects = [
        (
            ", ".join(filter(None, (effect.images, effect.decoder))),
            "   ".join(f"{NUMBERS[name][0].lower()} {effect.values[name]:.3g}" for name in shown),
        )
        for effect in analysis.effects
    ]
    sentences = [(str(number), text) for number, text in enumerate(findings(analysis), 1)]
    return _tables(("Tokens that differ from the real image's", departed), ("Images", effects), ("Found", sentences))


def of_latents(analysis: LatentAnalysis) -> str:
    """What comes back from noise, channels, and the noise that imitates the generator."""
    returned = [
        (
            f"{back.how}, noise level {back.level:g}",
            f"own image {back.own:.3g}   nearest {back.nearest:.3g}   spread {back.spread:.3g}   "
            f"apart {back.apart:.3g} ({back.apart_interval[0]:.3g} to {back.apart_interval[1]:.3g})",
        )
        for back in analysis.returns
    ]
    shift, shift_floor = (max(map(abs, values)) for values in (analysis.shift, analysis.shift_floor))
    channels = [
        ("mean, farthest off", f"{shift:.3g}, other real {shift_floor:.3g}"),
        ("spread", f"{min(analysis.spread):.3g} to {max(analysis.spread):.3g}"),
        ("other real", f"{min(analysis.spread_floor):.3g} to {max(analysis.spread_floor):.3g}"),
    ]
    found = analysis.imitation
    best = f"{ALPHA} {found.best.alpha:g}, s {found.best.strength:g}"
    imitation = (
        f"{best} is nearest to the generated latents ({percent(found.wins)} of random halves); it closes "
        f"{percent(min(1.0, found.gain / found.undisturbed), 0)} of the distance to real ones as they are."
        if found.gain_interval[0] > 0
        else f"No noise is nearer to the generated latents than none, beyond chance (nearest: {best})."
    )
    return _tables(
        (f"Latents that come back from noise (squared MMD of two real sets: {analysis.floor:.3g})", returned),
        ("Channels of generated latents, in real standard deviations", channels),
        ("Found", [("1", imitation)]),
    )


def _tables(*parts: tuple[str, Sequence[tuple[str, str]]]) -> str:
    tables = [(title, Table(columns=("", Column("", left=True)), rows=rows)) for title, rows in parts]
    return "\n\n".join(f"{title}\n{table.to_text(WIDTH)}" for title, table in tables)
