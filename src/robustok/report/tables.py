"""What every table of the page is made of."""

from robustok.report.markup import Markup, element

Attribute = str | float | None


def cell(*content: str | None, **attributes: Attribute) -> Markup:
    """A number's cell."""
    return element("td", *content, **({"class_": "n"} | attributes))


def head(*content: str | None, scope: str = "col", **attributes: Attribute) -> Markup:
    """The cell that names a column, or a row."""
    return element("th", *content, scope=scope, **attributes)


def row(*cells: Markup, **attributes: Attribute) -> Markup:
    return element("tr", *cells, **attributes)


def table(caption: str, heads: list[Markup], rows: list[Markup], kind: str | None = None) -> Markup:
    """A captioned table of rows, which scrolls by itself where the screen is too narrow for it."""
    parts = element("caption", caption), element("thead", *heads), element("tbody", *rows)
    whole = element("table", *parts, class_=kind)
    return element("div", whole, class_="scroll", tabindex=0, role="group", aria_label=caption)


def definitions(kind: str, *entries: tuple[str, str | None, str | None]) -> Markup | None:
    """Name, value and note of each entry that has a value."""
    shown = [
        element("div", element("dt", name), element("dd", value, element("small", note) if note else None))
        for name, value, note in entries
        if value is not None
    ]
    return element("dl", *shown, class_=kind) if shown else None


def shade(share: float) -> str:
    """From nearly white at 0 to orange at 1: dark text stays readable on all of it."""
    pale, strong = (253, 247, 236), (232, 146, 74)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(pale, strong, strict=True))
