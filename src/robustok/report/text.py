"""Numbers as a reader wants them."""

import math
from collections.abc import Callable

BLANK, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
ALPHA, DELTA = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER DELTA}"


def decimals(largest: float) -> int:
    """The decimals that show four digits of numbers up to `largest`, at least 1 and at most 4."""
    if not math.isfinite(largest) or largest <= 0:
        return 1
    return min(4, max(1, 3 - math.floor(math.log10(largest))))


def number(value: float | None, places: int = 1) -> str:
    """`1234.5` as "1,234.5"; a dash for nothing, and the word for what is not a number."""
    if value is None:
        return BLANK
    return f"{value:,.{places}f}".replace("-", MINUS) if math.isfinite(value) else "not finite"


def count(value: float | None) -> str:
    """A whole number with thousands apart; a dash for nothing."""
    return BLANK if value is None else f"{value:,.0f}"


def percent(fraction: float | None, places: int = 1) -> str:
    """0.973 as "97.3 %"."""
    return BLANK if fraction is None else f"{number(100 * fraction, places)}\N{NO-BREAK SPACE}%"


def change(new: float | None, old: float | None) -> float | None:
    """`new` against `old` as a fraction of `old`; None where there is none."""
    if new is None or old is None or not (math.isfinite(new) and math.isfinite(old)) or old == 0:
        return None
    return (new - old) / abs(old)


def signed(value: float, written: Callable[[float], str]) -> str:
    """A change as it is `written`, with its sign."""
    return f"+{written(value)}" if value > 0 else written(value)


def signed_percent(fraction: float | None) -> str:
    """A change with its sign: 0.12 as "+12.0 %"."""
    return percent(fraction) if fraction is None else signed(fraction, percent)


def interval(bounds: list[float] | None, places: int) -> str:
    """The two ends, or a dash."""
    return BLANK if bounds is None else f"{number(bounds[0], places)} to {number(bounds[1], places)}"


def duration(seconds: float) -> str:
    """852 as "14 min 12 s"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def compact(value: float) -> str:
    """A tick's label: 1500 as "1.5k", 0.0003 as "3e-4"."""
    size = abs(value)
    for unit, power in (("M", 1e6), ("k", 1e3)):
        if size >= power:
            return f"{value / power:.3g}{unit}"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def coordinate(value: float) -> str:
    """A place in a drawing, with one decimal."""
    return f"{value:.1f}".removesuffix(".0")
