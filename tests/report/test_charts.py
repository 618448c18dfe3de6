"""Charts: ticks, smoothing, and where the points land."""

import re
from itertools import pairwise

import pytest

from robustok.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Series,
    bar,
    extremes,
    line_chart,
    log_ticks,
    nice_ticks,
    running_mean,
    scatter,
)


def polyline(svg: str, color: str) -> list[tuple[float, float]]:
    points = re.search(rf'<polyline class="{color}" points="([^"]*)"', svg)
    assert points, svg
    return [tuple(map(float, pair.split(","))) for pair in points[1].split()]


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_text_is_escaped_and_markup_is_not():
    series = [Series("a", [(0.0, 1.0), (9.0, 2.0)], 'x" onload="')]
    svg = line_chart(series, title="1 < 2 & 3", unit="<script>", dots=True)
    assert "<title>1 &lt; 2 &amp; 3</title>" in svg
    assert "&lt;script&gt;</text>" in svg
    assert 'class="x&#34; onload=&#34;"' in svg
    assert "&lt;svg" not in svg
    assert "<title>&lt;</title>" in scatter(series, title="<")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1500, [0, 500, 1000, 1500]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (148, 181, [150, 160, 170, 180]),
        (-0.4, 0.1, [-0.4, -0.3, -0.2, -0.1, 0, 0.1]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_inside(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected, abs=1e-12)


def test_logarithmic_ticks_are_powers_of_ten_with_2_and_5_where_there_are_few():
    assert log_ticks(0.5, 2000) == pytest.approx([1, 10, 100, 1000])
    assert log_ticks(0.02, 0.6) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5])
    assert len(log_ticks(1e-9, 1e9)) <= 5


def test_running_mean_keeps_a_line_and_halves_nothing_at_the_start():
    line = [(float(i), 2.0 * i) for i in range(90)]
    smooth = running_mean(line)
    assert smooth[:-3] == line[:-3]  # the last 3 have no neighbors to their right
    assert smooth[-1] == (89.0, pytest.approx(2 * (86 + 87 + 88 + 89) / 4))


def test_running_mean_of_few_points_is_the_points():
    few = [(0.0, 1.0), (1.0, 5.0), (2.0, 1.0)]
    assert running_mean(few) is few


def test_thinning_keeps_every_extreme():
    points = [(float(i), float(i % 7)) for i in range(5000)]
    points[1234], points[4321] = (1234.0, 99.0), (4321.0, -99.0)
    thin = extremes(points)
    assert len(thin) <= 300
    assert thin == sorted(thin)
    assert {(1234.0, 99.0), (4321.0, -99.0)} <= set(thin)
    assert extremes(points[:300]) == points[:300]


def test_points_land_where_the_axes_say():
    series = Series("l2", [(0.0, 0.0), (50.0, 50.0), (100.0, 100.0)], "line")
    (x0, y0), (x1, y1), (x2, y2) = polyline(line_chart([series], title="t", dots=True), "line")
    assert (x0, x1, x2) == (LEFT, (LEFT + 300 - RIGHT) / 2, 300 - RIGHT)
    assert y0 == 156 - BOTTOM  # the axis begins at 0
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)  # coordinates have one decimal
    assert y2 == pytest.approx(TOP + (156 - BOTTOM - TOP) * (1 - 1 / 1.05), abs=0.05)  # 5 % of air above


def test_values_far_apart_get_a_logarithmic_axis():
    decades = [(float(i), 10.0 ** (-i)) for i in range(5)]
    svg = line_chart([Series("l2", decades, "line")], title="t", dots=True)
    heights = [y for _, y in polyline(svg, "line")]
    gaps = [b - a for a, b in pairwise(heights)]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=0.11)
    assert {"1", "0.1", "0.01"} <= set(labels(svg))


def test_an_outlier_leaves_the_chart_instead_of_flattening_it():
    points = [(float(i), 1.0 + 0.1 * (i % 2)) for i in range(200)]
    points[100] = (100.0, 1e6)
    svg = line_chart([Series("l2", points, "line", exact=True)], title="t")
    assert max(map(float, re.findall(r' y1="([\d.]+)"', svg))) <= 156
    smooth = line_chart([Series("l2", points, "line")], title="t")
    for chart in (svg, smooth):
        for y in re.findall(r",([\d.-]+)", chart):
            assert TOP <= float(y) <= 156 - BOTTOM


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_has_a_chart(value):
    svg = line_chart([Series("x", [(1.0, value), (2.0, value)], "line")], title="t")
    (_, y0), (_, y1) = polyline(svg, "line")
    assert y0 == y1
    assert TOP < y0 < 156


def test_a_chart_says_what_it_is_and_only_the_last_step_has_its_unit():
    svg = line_chart([Series("l2", [(0.0, 1.0), (1500.0, 2.0)], "line")], title="L2 < 3")
    assert "<title>L2 &lt; 3</title>" in svg
    assert 'role="img"' in svg
    assert [label for label in labels(svg) if "steps" in label] == ["1.5k steps"]


def test_level_and_mark_are_drawn():
    svg = line_chart(
        [Series("fd", [(0.0, 10.0), (10.0, 8.0)], "after")], title="t", dots=True, level=10, mark=(10.0, 8.0)
    )
    level = re.search(r'class="level"[^>]* y1="([\d.]+)"', svg)
    assert level
    assert float(level[1]) == polyline(svg, "after")[0][1]
    mark = re.search(r'class="mark" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert mark
    assert (float(mark[1]), float(mark[2])) == polyline(svg, "after")[1]


def test_a_bar_is_as_long_as_its_value():
    half = bar(50, 100, color="after", floor=25, bounds=[40, 60])
    assert 'width="109"' in half  # of 218
    assert 'd="M55.5 0V18"' in half  # the floor, a quarter along
    assert "M88.2 9H131.8" in half  # 0.4 and 0.6 of 218, one unit in
    assert bar(0, 0, color="line", floor=None, bounds=None).count("<rect") == 1


def test_a_chart_may_be_over_something_else_than_steps():
    svg = line_chart([Series("x", [(0.0, 1.0), (60.0, 2.0)], "line")], title="t", unit="tokens")
    assert labels(svg)[-1] == "60 tokens"


def test_a_scatter_keeps_the_shape_of_what_it_shows():
    """A 2 x 1 rectangle in a square of 108 units: 100 wide, 50 high, upright."""
    svg = scatter([Series("a", [(0.0, 0.0), (2.0, 1.0)], "after")], title="t", size=(108, 108))
    (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg))
    assert (x1 - x0, y0 - y1) == (100, 50)
    assert (x0 + x1) / 2 == (y0 + y1) / 2 == 54
    assert "<circle" in scatter([Series("a", [(1.0, 1.0)], "after")], title="t")
