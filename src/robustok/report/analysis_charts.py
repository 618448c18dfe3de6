"""The charts of an analysis: departures by place, distances over alpha, latents in the plane, spectra."""

import math

from robustok.evaluation.analysis.analyze import Analysis
from robustok.report.charts import Series, line_chart, pixel_map, scatter
from robustok.report.findings import VIEW
from robustok.report.markup import ALPHA, DELTA, Markup, element, percent

LARGE = (470, 250)


def places_charts(analysis: Analysis) -> Markup:
    """Departures and code distance at each place of the sequence, and the real token's probability."""
    forced, other = analysis.forced.sampled, analysis.other_real
    label, *prefixed = analysis.free
    lines = [("Another real image", other, "control"), ("From the label alone", label, "line")]
    lines += [("After real tokens", free, "before") for free in prefixed]
    lines.append(("Teacher forcing", forced, "after"))
    departing = [Series(name, _by_place(d.by_position, d.first), color, True) for name, d, color in lines]
    distances = [Series(name, _by_place(d.distance_by_position, d.first), color, True) for name, d, color in lines]
    probability = [Series("Real token", _by_place(analysis.forced.probability_by_position, 0), "after", True)]
    legend = _legend({name: color for name, _, color in lines})
    return element(
        "div",
        legend,
        element(
            "div",
            _figure("Share of tokens that differ from the real image's", departing, "tokens"),
            _figure("Code distance of those that differ", distances, "tokens"),
            _figure("Probability of the real token under teacher forcing", probability, "tokens"),
            place_map(analysis),
            class_="beside",
        ),
        class_="large",
    )


def place_map(analysis: Analysis) -> Markup | None:
    """Departures as a picture, where tokens come one by one and can be the squares of an image."""
    values = list(analysis.forced.sampled.by_position)
    side = math.isqrt(len(values))
    if side * side != len(values) or len(set(analysis.forced.step)) < len(values):
        return None
    low, high = min(values), max(values)
    return element(
        "figure",
        element(
            "figcaption", f"Departures under teacher forcing as a picture: {percent(low)} (pale) to {percent(high)}"
        ),
        pixel_map(values, side, title="Departures at each place", low=low * 0.9, high=high),
    )


def far_chart(analysis: Analysis) -> Markup:
    """How far perturbed latents are from real ones over alpha, for the smallest, the middle and the largest delta."""
    imitation = analysis.imitation
    target, values = imitation.target("generated", VIEW), imitation.from_real[VIEW]
    deltas = sorted({cell.delta for cell in imitation.grid})
    shown = dict(zip((deltas[0], deltas[len(deltas) // 2], deltas[-1]), ("before", "line", "control"), strict=False))
    lines = [
        Series(
            f"{DELTA} = {delta}",
            [(c.alpha, v) for c, v in zip(imitation.grid, values, strict=True) if c.delta == delta],
            color,
            True,
        )
        for delta, color in shown.items()
    ]
    chart = line_chart(
        lines, title="MMD to real latents over alpha", size=LARGE, level=target.to_real, unit=f"= {ALPHA}"
    )
    caption = element("figcaption", "Squared MMD to real latents; dotted: the generated ones'")
    return element("div", _legend({s.name: s.color for s in lines}), element("figure", caption, chart), class_="large")


def plane_chart(analysis: Analysis) -> Markup:
    """Real, perturbed and generated latents."""
    colors = {"real": "before", "perturbed": "control", "generated": "after"}
    clouds = [Series(name, points, colors[name]) for name, points in analysis.plane["points"].items()]
    legend = _legend({cloud.name: cloud.color for cloud in clouds}, "points")
    return element("div", legend, scatter(clouds, title="Latents in the plane of real ones"), class_="large")


def spectrum_chart(analysis: Analysis) -> Markup:
    """Power against real images at each frequency."""
    colors = {
        ("reconstructed", "original"): "line",
        ("generated", "original"): "before",
        ("generated", "tuned"): "after",
    }
    lines = [
        Series(
            f"{effect.images}, {effect.decoder}",
            [(float(i), v) for i, v in enumerate(effect.spectrum, 1)],
            colors[effect.images, effect.decoder],
            True,
        )
        for effect in analysis.effects
        if (effect.images, effect.decoder) in colors
    ]
    real = next(effect for effect in analysis.effects if effect.images == "real")
    lines.append(Series("other real images", [(float(i), v) for i, v in enumerate(real.spectrum, 1)], "control", True))
    chart = line_chart(lines, title="Power against real images", size=LARGE, level=0.0, unit="cycles")
    return element(
        "div",
        _legend({line.name: line.color for line in lines}),
        element("figure", element("figcaption", "Power against real images in dB, by cycles per image"), chart),
        class_="large single",
    )


def _figure(caption: str, lines: list[Series], unit: str) -> Markup:
    return element(
        "figure",
        element("figcaption", caption),
        line_chart([s for s in lines if s.points], title=caption, size=LARGE, unit=unit),
    )


def _by_place(values: tuple[float | None, ...], first: int) -> list[tuple[float, float]]:
    return [(float(first + i), value) for i, value in enumerate(values) if value is not None]


def _legend(names: dict[str, str], kind: str = "") -> Markup:
    keys = (element("span", name, class_=f"key {color}") for name, color in names.items())
    return element("p", *keys, class_=f"legend {kind}".strip())
