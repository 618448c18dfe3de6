"""Pages and their parts by jinja2: text is escaped wherever it enters one, and a page needs no other file."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustok.report import text


@cache
def environment(package: str = "robustok.report") -> Environment:
    """The templates of a package, beside those of this one; `text` writes their numbers."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("robustok.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(shade=shade, json=lambda value: json.dumps(value, indent=2, ensure_ascii=False))
    made.globals["text"] = text
    made.globals["style"] = Markup(files("robustok.report").joinpath("style.css").read_text(encoding="utf-8"))
    return made


def render(template: str, *, package: str = "robustok.report", **values: Any) -> str:
    """A whole document, the styles inside it."""
    return environment(package).get_template(f"{template}.html.j2").render(values)


def part(macro: str, *values: Any, **named: Any) -> Markup:
    """A part of a page, by one of the macros in `parts.html.j2`."""
    return Markup(getattr(environment().get_template("parts.html.j2").module, macro)(*values, **named))


def shade(fraction: float) -> str:
    """From nearly white at 0 to orange at 1: dark text stays readable on all of it."""
    pale, strong = (253, 247, 236), (232, 146, 74)
    return "#" + "".join(f"{round(a + fraction * (b - a)):02x}" for a, b in zip(pale, strong, strict=True))
