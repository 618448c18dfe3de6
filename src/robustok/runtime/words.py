"""Numbers and errors in words, for messages of one line."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

TOLD = "another process says so"  # note on an error that need not be told again


def counted(number: int, noun: str) -> str:
    """`1 image`, `20,000 images`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = [f"and {len(names) - 5} more"] if len(names) > 5 else []
    return ", ".join([*names[:5], *more])


def in_short(value: object) -> str:
    """A value that is short, else what it is: `'photos'`, `a Tensor`."""
    return repr(value) if isinstance(value, str | Path | int | float | None) else f"a {type(value).__name__}"


def listed(about: Mapping[str, Any]) -> str:
    """`name photos, count 5000`; what is nested is in brackets."""
    return ", ".join(f"{name} ({listed(v)})" if isinstance(v, Mapping) else f"{name} {v}" for name, v in about.items())


def did_you_mean(name: Any, names: Iterable[Any], written: Callable[[str], str] = str) -> str:
    """`; did you mean ...?` with the nearest of the names, or all of them when none is near."""
    known = [str(known) for known in names]
    near = get_close_matches(str(name), known, n=1)
    others = f"; choose from {', '.join(map(written, known))}" if known else ""
    return f"; did you mean {written(near[0])}?" if near else others


def reason(error: BaseException) -> str:
    """The words of an error, in one line: without the system's number, and never nothing."""
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's, which names an object in memory
        return "not an image"
    said = getattr(error, "strerror", None) or str(error)
    lines = said.strip().splitlines()
    return lines[0] if lines else type(error).__name__
