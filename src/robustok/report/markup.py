"""HTML written so that text cannot become markup, and numbers written as a reader wants them."""

import math
from html import escape

BLANK, MINUS, ALPHA, DELTA, TIMES = (
    "\N{EN DASH}",
    "\N{MINUS SIGN}",
    "\N{GREEK SMALL LETTER ALPHA}",
    "\N{GREEK SMALL LETTER DELTA}",
    "\N{MULTIPLICATION SIGN}",
)


class Markup(str):
    """Text that is HTML already; any other text is escaped where it enters an element."""

    __slots__ = ()


def element(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """`<name attributes>children</name>`.

    An underscore in an attribute's name becomes a hyphen and one at its end goes (`class_`, `text_anchor`).
    What is None is left out.
    """
    start = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{start}>{join(*children)}</{name}>")


def void(name: str, **attributes: str | float | None) -> Markup:
    """An element that never has content, such as `img`."""
    return Markup(element(name, **attributes).removesuffix(f"</{name}>"))


def join(*children: str | None) -> Markup:
    """The children in a row, escaped unless they are markup."""
    return Markup("".join(x if isinstance(x, Markup) else escape(x, quote=False) for x in children if x is not None))


def decimals(largest: float) -> int:
    """How many decimals show four digits of numbers up to `largest`, at least 1 and at most 4."""
    if not math.isfinite(largest) or largest <= 0:
        return 1
    return min(4, max(1, 3 - math.floor(math.log10(largest))))


def number(value: float | None, places: int = 1) -> str:
    """`1234.5` as "1,234.5"; a dash for nothing, and the word for what is not a number."""
    if value is None:
        return BLANK
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.{places}f}".replace("-", MINUS)


def count(value: float) -> str:
    """A whole number with thousands apart."""
    return f"{value:,.0f}"


def percent(share: float | None, places: int = 1) -> str:
    """0.973 as "97.3 %"."""
    return BLANK if share is None else f"{number(100 * share, places)}\N{NO-BREAK SPACE}%"


def change(new: float | None, old: float | None) -> float | None:
    """`new` against `old` as a share of `old`; None where there is none."""
    if new is None or old is None or not (math.isfinite(new) and math.isfinite(old)) or old == 0:
        return None
    return (new - old) / abs(old)


def signed_percent(share: float | None) -> str:
    """A change with its sign: 0.12 as "+12.0 %"."""
    return f"+{percent(share)}" if share is not None and share > 0 else percent(share)


def interval(bounds: list[float] | None, places: int) -> str:
    """The two ends, or a dash."""
    return BLANK if bounds is None else f"{number(bounds[0], places)} to {number(bounds[1], places)}"


def duration(seconds: float) -> str:
    """852 as "14 min 12 s"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{seconds:.1f} s"


def compact(value: float) -> str:
    """A tick's label: 1500 as "1.5k", 0.0003 as "3e-4"."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e3:
        return f"{value / 1e3:.3g}k"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)
