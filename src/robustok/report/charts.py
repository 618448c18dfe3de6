"""Line charts, bars and dots as inline SVG, so that the page needs no script and no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from robustok.report.html import part

Points = list[tuple[float, float]]
LEFT, RIGHT, TOP, BOTTOM = 40.0, 10.0, 8.0, 22.0  # margins of a chart, in its own units
WIDE = 30  # values further apart than this factor get a logarithmic axis


class Series(NamedTuple):
    """One line of a chart."""

    name: str
    points: Points  # (step, value), finite, by step
    color: str  # the style sheet's name for it: line, before, control, after
    exact: bool = False  # a schedule: no noise to average away


@dataclass(frozen=True)
class Axis:
    """A range of values, where it goes on the chart, and the values that are written beside it."""

    low: float
    high: float
    span: tuple[float, float]  # coordinates of both
    ticks: Sequence[float] = ()
    log: bool = False  # low and high are powers of ten

    def place(self, value: float) -> float:
        """The coordinate of a value; one that is outside is put on the edge."""
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        fraction = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return self.span[0] + fraction * (self.span[1] - self.span[0])


def line_chart(
    series: list[Series],
    *,
    title: str,
    size: tuple[float, float] = (300, 156),
    dots: bool = False,
    level: float | None = None,
    mark: tuple[float, float] | None = None,
    unit: str = "steps",
) -> Markup:
    """Values over steps, or another `unit`. Raw values faint under their running mean, or each value a dot if `dots`.

    The value axis is logarithmic where the values are more than 30 times apart. `level` is drawn as a dashed
    line, `mark` ringed.
    """
    width, height = size
    last, span = max(s.points[-1][0] for s in series), (LEFT, width - RIGHT)
    x = Axis(0.0, max(last, 1.0), span, nice_ticks(0.0, last, round((span[1] - span[0]) / 95)))  # a tick every 95 units
    drawn = [(s, s.points if dots or s.exact else running_mean(s.points)) for s in series]
    values = [v for _, points in drawn for _, v in points]
    raw = sorted(v for s in series for _, v in s.points)
    values += [raw[len(raw) // 50], raw[-1 - len(raw) // 50]]  # an outlier may leave the chart, not flatten it
    y = _value_axis(values + ([] if level is None else [level]), (height - BOTTOM, TOP))
    marks: list[tuple[str, Points, float]] = []
    for s, points in drawn:
        marks += [] if points is s.points else [(f"raw {s.color}", extremes(s.points), 0)]
        marks.append((s.color, extremes(points), 0))
        marks += [(f"dot {s.color}", points, 2.4)] if dots else []
    marks += [] if mark is None else [("mark", [mark], 6.5)]
    frame = (LEFT, height - BOTTOM, height - 6, unit)
    return part("chart", "chart", size, title, x, y, marks, frame, level)


def bar(value: float, longest: float, *, color: str, floor: float | None, bounds: list[float] | None) -> Markup:
    """A horizontal bar from 0 to `value` of `longest`, its interval as a whisker, the floor as a line.

    Hidden from screen readers: the number stands beside it.
    """
    size = (220, 18)
    axis = Axis(0.0, longest, (1, size[0] - 1)) if longest > 0 else Axis(0.0, 1.0, (1, 1))
    return part("bar", size, axis, value, color, floor, bounds)


def scatter(clouds: list[Series], *, title: str, size: tuple[float, float] = (420, 320)) -> Markup:
    """Points of several sets in one plane, both axes to the same scale, so that distances are what they look like."""
    sides = [[point[i] for cloud in clouds for point in cloud.points] for i in range(2)]
    unit = max((max(v) - min(v)) / (room - 8) for v, room in zip(sides, size, strict=True)) or 1.0  # of a coordinate
    reach = [((min(v) + max(v)) / 2, unit * room / 2) for v, room in zip(sides, size, strict=True)]
    x, y = (
        Axis(middle - half, middle + half, span)
        for (middle, half), span in zip(reach, ((0, size[0]), (size[1], 0)), strict=True)
    )
    return part("chart", "chart cloud", size, title, x, y, [(f"dot {c.color}", c.points, 2) for c in clouds])


def running_mean(points: Points) -> Points:
    """Each value averaged with its neighbors, a thirtieth of all on either side.

    At the start fewer, as many on both sides, so that a steep beginning stays where it is; at the end as many
    as there are.
    """
    reach = len(points) // 30
    if reach == 0:
        return points
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    smooth = []
    for i, (step, _) in enumerate(points):
        near = min(reach, i)
        first, end = i - near, min(i + near + 1, len(points))
        smooth.append((step, (sums[end] - sums[first]) / (end - first)))
    return smooth


def extremes(points: Points, bins: int = 150) -> Points:
    """At most 2 bins points that look the same: of each bin the lowest and the highest, in order."""
    if len(points) <= 2 * bins:
        return points
    kept = []
    for i in range(bins):
        part = points[i * len(points) // bins : (i + 1) * len(points) // bins]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high], thinned to 5; with 2 and 5 times them where they are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d * (1 + 1e-9) and f * 10.0**d <= high]
    return ticks[:: math.ceil(len(ticks) / 5)] if ticks else [low, high]


def _value_axis(values: list[float], span: tuple[float, float]) -> Axis:
    """Logarithmic for values more than 30 times apart; else with some air, and from 0 where that costs little."""
    low, high = min(values), max(values)
    if low > 0 and high / low > WIDE:
        low, high = math.log10(low) - 0.05, math.log10(high) + 0.05
        return Axis(low, high, span, log_ticks(10**low, 10**high), log=True)
    if high == low:
        low, high = low - max(abs(low), 1) / 2, high + max(abs(high), 1) / 2
    air = 0.05 * (high - low)
    low = 0.0 if 0 <= low < 0.4 * high else low - air
    return Axis(low, high + air, span, nice_ticks(low, high + air))
