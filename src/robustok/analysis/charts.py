"""The charts of an analysis: departures by place, distances over alpha, latents in the plane, spectra."""

import math
from collections.abc import Iterable

from markupsafe import Markup

from robustok.analysis.findings import VIEW
from robustok.analysis.tokens import Analysis
from robustok.report.charts import Points, Series, line_chart, pixel_map, scatter
from robustok.report.html import part
from robustok.report.text import ALPHA, DELTA, percent

COLORS = {"real": "before", "perturbed": "control", "generated": "after"}
SPECTRA = {  # (images, decoder): name, color
    ("reconstructed", "original"): ("reconstructed, original", "line"),
    ("generated", "original"): ("generated, original", "before"),
    ("generated", "tuned"): ("generated, tuned", "after"),
    ("real", ""): ("other real images", "control"),
}


def places_charts(analysis: Analysis) -> Markup:
    """Departures and code distance at each place of the sequence, and the real token's probability."""
    label, *prefixed = analysis.free
    ways = [("Another real image", analysis.other_real, "control"), ("From the label alone", label, "line")]
    ways += [("After real tokens", free, "before") for free in prefixed]
    ways.append(("Teacher forcing", analysis.forced.sampled, "after"))
    departing = [Series(name, _over(d.by_position, d.first), color, True) for name, d, color in ways]
    distances = [Series(name, _over(d.distance_by_position, d.first), color, True) for name, d, color in ways]
    probability = [Series("Real token", _over(analysis.forced.probability_by_position), "after", True)]
    charts = [
        _figure("Fraction of tokens that differ from the real image's", departing, "tokens"),
        _figure("Code distance of those that differ", distances, "tokens"),
        _figure("Probability of the real token under teacher forcing", probability, "tokens"),
        place_map(analysis),
    ]
    beside = part("box", "beside", [chart for chart in charts if chart])
    return part("box", "large", [part("legend", {name: color for name, _, color in ways}), beside])


def place_map(analysis: Analysis) -> Markup | None:
    """Departures as a picture, where tokens come one by one and can be the squares of an image."""
    values = list(analysis.forced.sampled.by_position)
    side = math.isqrt(len(values))
    if side * side != len(values) or len(set(analysis.forced.step)) < len(values):
        return None
    low, high = min(values), max(values)
    caption = f"Departures under teacher forcing as a picture: {percent(low)} (pale) to {percent(high)}"
    return part("figure", caption, pixel_map(values, side, title="Departures at each place", low=low * 0.9, high=high))


def far_chart(analysis: Analysis) -> Markup:
    """How far perturbed latents are from real ones over alpha, for the smallest, the middle and the largest delta."""
    imitation = analysis.imitation
    values = list(zip(imitation.grid, imitation.from_real[VIEW], strict=True))
    deltas = sorted({cell.delta for cell in imitation.grid})
    shown = dict(zip((deltas[0], deltas[len(deltas) // 2], deltas[-1]), ("before", "line", "control"), strict=False))
    lines = [
        Series(
            f"{DELTA} = {delta}", [(cell.alpha, value) for cell, value in values if cell.delta == delta], color, True
        )
        for delta, color in shown.items()
    ]
    level = imitation.target("generated", VIEW).to_real
    chart = _figure("Squared MMD to real latents; dotted: the generated ones'", lines, f"= {ALPHA}", level)
    return part("box", "large", [_legend(lines), chart])


def plane_chart(analysis: Analysis) -> Markup:
    """Real, perturbed and generated latents."""
    clouds = [Series(name, points, COLORS[name]) for name, points in analysis.plane["points"].items()]
    chart = scatter(clouds, title="Latents in the plane of real ones")
    return part("box", "large", [_legend(clouds, "points"), chart])


def spectrum_chart(analysis: Analysis) -> Markup:
    """Power against real images at each frequency."""
    found = {(effect.images, effect.decoder): effect.spectrum for effect in analysis.effects}
    lines = [Series(name, _over(found[key], 1), color, True) for key, (name, color) in SPECTRA.items() if key in found]
    chart = _figure("Power against real images in dB, by cycles per image", lines, "cycles", 0.0)
    return part("box", "large single", [_legend(lines), chart])


def _figure(caption: str, lines: list[Series], unit: str, level: float | None = None) -> Markup:
    shown = [line for line in lines if line.points]
    return part("figure", caption, line_chart(shown, title=caption, size=(470, 250), level=level, unit=unit))


def _over(values: Iterable[float | None], first: int = 0) -> Points:
    """The values that there are, over their numbers from `first` on."""
    return [(float(i), value) for i, value in enumerate(values, first) if value is not None]


def _legend(lines: list[Series], kind: str = "") -> Markup:
    return part("legend", {line.name: line.color for line in lines}, kind)
