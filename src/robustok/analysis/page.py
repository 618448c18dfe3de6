"""An analysis as text for the terminal, and as a page: where a generator leaves real images, and what that does."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from robustok.analysis import tables
from robustok.analysis.findings import cell_name, findings
from robustok.analysis.latents import LatentAnalysis
from robustok.analysis.tokens import Analysis, Result
from robustok.evaluation.metrics.pfid import Cell
from robustok.report.charts import Series, line_chart, scatter
from robustok.report.html import part
from robustok.report.html import render as html_page
from robustok.report.images import gallery
from robustok.report.page import shown
from robustok.report.run import Grid
from robustok.report.table import Column, Table
from robustok.report.text import percent
from robustok.runtime.configs import flat
from robustok.runtime.pictures import png, sheet
from robustok.shapes import Pixels

WIDTH = 100  # columns of a line in the terminal, at most
SECTIONS = {  # anchor of a section: its link, in the order of the page
    "images": "Images",
    "tokens": "Tokens",
    "codes": "Codes",
    "latents": "Latents",
    "plane": "Plane",
    "effects": "Effects",
    "changes": "Post-training",
    "protocol": "Protocol",
}
SETS = {"real": "before", "perturbed": "control", "generated": "after"}  # in the plane: the colors of points
SPECTRA = {  # (images, decoder): color
    ("reconstructed", "original"): "line",
    ("generated", "original"): "before",
    ("generated", "tuned"): "after",
    ("real", ""): "control",
}


def text(analysis: Analysis | LatentAnalysis) -> str:
    """The main tables, and what was found in sentences."""
    if isinstance(analysis, LatentAnalysis):
        main = tables.latent_tables(analysis)
    else:
        effects = tables.effects_table(analysis.effects, tables.MAIN, bounds=False)
        main = [tables.departures_table(analysis), effects]
    rows = [(str(number), sentence) for number, sentence in enumerate(findings(analysis), 1)]
    found = Table(columns=("", Column("", left=True)), rows=rows, caption="Found")
    return "\n\n".join(f"{table.caption}\n{table.to_text(WIDTH)}" for table in (*main, found))


def page(result: Result) -> str:
    """The whole HTML document, which needs no other file."""
    return html_page(
        "analysis",
        package="robustok.analysis",
        names=SECTIONS,
        parts=shown(_sections(result)),
        findings=findings(result.analysis),
        plane=percent(sum(result.analysis.plane["fraction"])),
    )


def _sections(result: Result) -> dict[str, Sequence[Any]]:
    analysis = result.analysis
    target, imitation = analysis.imitation.target("generated"), analysis.imitation
    nearest = f"From generated to perturbed latents, in thousandths of squared MMD ({target.view}); unperturbed"
    far = "From real to perturbed latents, likewise; generated"
    return {
        "images": [gallery([_grid(name, pixels) for name, pixels in result.examples.items()])],
        "tokens": [tables.departures_table(analysis), _positions(analysis), tables.ranks_table(analysis)],
        "codes": [tables.codes_table(analysis)],
        "latents": [
            tables.targets_table(analysis),
            tables.grid_table(imitation, target.cells, nearest, target.to_unperturbed),
            tables.grid_table(imitation, imitation.from_real[target.view], far, target.to_real),
        ],
        "plane": [_plane(analysis)],
        "effects": [tables.effects_table(analysis.effects), _spectra(analysis), tables.colors_table(analysis.effects)],
        "changes": [tables.changes_table(analysis.changes)],
        "protocol": [part("definitions", "facts", _protocol(analysis.protocol))],
    }


def _grid(name: str, pixels: Pixels) -> Grid:
    """Images of one set side by side."""
    columns = len(pixels)
    return Grid(png=png(sheet(pixels, columns)), title=name.capitalize(), columns=columns, cell=pixels.shape[-1])


def _protocol(protocol: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and note of what to repeat to get these numbers."""
    facts = ((re.sub("[._]", " ", name).capitalize(), value) for name, value in flat(protocol).items())
    return [(name, cell_name(value) if isinstance(value, Cell) else str(value), "") for name, value in facts]


def _positions(analysis: Analysis) -> Markup:
    """Departures and code distance at each position of the sequence, and the real token's probability."""
    drawn = {name: d for name, d in analysis.departures.items() if d is not analysis.forced.likeliest}
    colors = {"Teacher forcing": "after", "From the label alone": "line", "Another real image of the class": "control"}
    departing, distances = (
        [_series(name, vars(d)[field], colors.get(name, "before"), d.first) for name, d in drawn.items()]
        for field in ("by_position", "distance_by_position")
    )
    probability = [_series("Real token", analysis.forced.probability_by_position, "after")]
    charts = [
        _chart("Fraction of tokens that differ from the real image's", departing, "tokens"),
        _chart("Code distance of those that differ", distances, "tokens"),
        _chart("Probability of the real token under teacher forcing", probability, "tokens"),
    ]
    return part("box", "large", [_legend(departing), part("box", "beside", charts)])


def _plane(analysis: Analysis) -> Markup:
    """Real, perturbed and generated latents."""
    clouds = [Series(name, points, SETS[name]) for name, points in analysis.plane["points"].items()]
    return part("box", "large", [_legend(clouds, "points"), scatter(clouds, title="Latents in the plane of real ones")])


def _spectra(analysis: Analysis) -> Markup:
    """Power against real images at each frequency."""
    lines = [
        _series(", ".join(filter(None, (effect.images, effect.decoder))), effect.spectrum, color, 1)
        for effect in analysis.effects
        if (color := SPECTRA.get((effect.images, effect.decoder)))
    ]
    chart = _chart("Power against real images in dB, by cycles per image", lines, "cycles", 0.0)
    return part("box", "large single", [_legend(lines), chart])


def _series(name: str, values: Iterable[float | None], color: str, first: int = 0) -> Series:
    """The values that there are, over their numbers from `first` on."""
    return Series(name, [(float(i), v) for i, v in enumerate(values, first) if v is not None], color, exact=True)


def _chart(caption: str, lines: list[Series], unit: str, level: float | None = None) -> Markup:
    drawn = [line for line in lines if line.points]
    return part("figure", caption, line_chart(drawn, title=caption, size=(470, 250), level=level, unit=unit))


def _legend(lines: list[Series], kind: str = "") -> Markup:
    return part("legend", {line.name: line.color for line in lines}, kind)
