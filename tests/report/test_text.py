"""Numbers as the page writes them, and its colors."""

import re
from importlib.resources import files

import pytest

from robustok.report.html import shade
from robustok.report.page import summary
from robustok.report.run import Run
from robustok.report.text import (
    MINUS,
    change,
    compact,
    count,
    decimals,
    duration,
    interval,
    number,
    percent,
    signed_percent,
)

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(1234.56), "1,234.6"),
        (number(-0.5, 2), f"{MINUS}0.50"),
        (number(None), "\N{EN DASH}"),
        (number(float("nan")), "not finite"),
        (count(1234.4), "1,234"),
        (count(None), "\N{EN DASH}"),
        (percent(0.9727), f"97.3{SPACE}%"),
        (signed_percent(0.12), f"+12.0{SPACE}%"),
        (signed_percent(-0.12), f"{MINUS}12.0{SPACE}%"),
        (interval([1.0, 2.5], 1), "1.0 to 2.5"),
        (interval(None, 1), "\N{EN DASH}"),
        (duration(12.34), "12.3 s"),
        (duration(852.2), "14 min 12 s"),
        (duration(7325), "2 h 02 min"),
        (compact(0), "0"),
        (compact(1500), "1.5k"),
        (compact(2_000_000), "2M"),
        (compact(0.0003), f"3e{MINUS}4"),
        (compact(-0.25), f"{MINUS}0.25"),
    ],
)
def test_numbers_as_a_reader_wants_them(written, expected):
    assert written == expected


@pytest.mark.parametrize(("largest", "expected"), [(1234.0, 1), (172.1, 1), (38.7, 2), (2.28, 3), (0.01, 4), (0.0, 1)])
def test_decimals_show_four_digits(largest, expected):
    assert decimals(largest) == expected


def test_change_is_relative_to_the_old_value():
    assert change(150.0, 200.0) == -0.25
    assert change(None, 200.0) is change(150.0, None) is change(1.0, 0.0) is change(float("nan"), 1.0) is None


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_text_can_be_read_on_every_shade_of_the_heat_map():
    assert all(contrast("#1b1e23", shade(share / 10)) >= 4.5 for share in range(11))


def test_text_can_be_read_in_light_and_in_dark():
    style = files("robustok.report").joinpath("style.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(themes) == 2
    for theme in themes:
        for color, wanted in {"ink": 7, "muted": 4.5, "line": 4.5, "control": 4.5, "after": 4.5, "before": 3}.items():
            assert contrast(theme[color], theme["paper"]) >= wanted, (color, theme)
        assert contrast(theme["ink"], theme["panel"]) >= 4.5


def test_a_second_phase_is_told():
    perturbation = {"alpha": 0.3, "beta": 1.0, "delta": 40, "latent_space": "frozen", "freeze_from": 0.75}
    joint = perturbation | {"latent_space": "joint"}
    two_phases, one = (
        summary(Run(name="", config={"main": {"perturbation": p}}, metrics={"tokenizer": [{"step": 1.0}]}))
        for p in (perturbation, joint)
    )
    said = two_phases.replace("\N{NO-BREAK SPACE}", " ")
    assert said.endswith("in the last 25 % of the steps, in which only the decoder still learned.")
    assert one.endswith("(latent perturbation).")
