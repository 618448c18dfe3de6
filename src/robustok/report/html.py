"""Pages and their parts by jinja2: text is escaped wherever it enters one, and a page needs no other file."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustok.report.table import shade, text_of


@cache
def environment(package: str = "robustok.report") -> Environment:
    """The templates of a package, beside those of this one."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("robustok.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(shade=shade, text_of=text_of)
    style = files("robustok.report").joinpath("style.css").read_text(encoding="utf-8")
    made.globals["style"] = Markup(style)
    return made


def page(template: str, *, package: str = "robustok.report", **values: Any) -> str:
    """A whole document, the styles inside it."""
    return environment(package).get_template(f"{template}.html.j2").render(values)


def part(macro: str, *values: Any, **named: Any) -> Markup:
    """A part of a page, by one of the macros in `parts.html.j2`."""
    return Markup(getattr(environment().get_template("parts.html.j2").module, macro)(*values, **named))
