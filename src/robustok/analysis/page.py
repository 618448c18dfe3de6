"""The page of `robustok analyze`: where a generator leaves real images, and what that does to the pictures."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from robustok.analysis.charts import far_chart, places_charts, plane_chart, spectrum_chart
from robustok.analysis.findings import VIEW, cell_name, findings
from robustok.analysis.tables import (
    cells_table,
    changes_table,
    code_figures,
    colors_table,
    departures_table,
    effects_table,
    far_table,
    ranks_table,
    targets_table,
)
from robustok.analysis.tokens import Analysis, Result
from robustok.report import html
from robustok.report.images import gallery
from robustok.report.page import shown
from robustok.report.run import Grid
from robustok.report.text import percent
from robustok.shapes import Pixels

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


def grids(result: Result) -> list[Grid]:
    """The example images of every set, one row each."""
    return [
        Grid(png=_png(pixels), title=name.capitalize(), columns=len(pixels), cell=pixels.shape[-1])
        for name, pixels in result.examples.items()
    ]


def _png(pixels: Pixels) -> bytes:
    """Images side by side."""
    data = io.BytesIO()
    Image.fromarray(pixels.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy()).save(data, "PNG")
    return data.getvalue()


def page(result: Result, grids: list[Grid]) -> str:
    """The whole HTML document, which needs no other file. `grids` show some images of every set."""
    return html.page(
        "analysis",
        package="robustok.analysis",
        names=SECTIONS,
        parts=shown(sections(result.analysis, grids)),
        findings=findings(result.analysis),
        plane=percent(sum(result.analysis.plane["share"])),
    )


def sections(analysis: Analysis, grids: list[Grid]) -> dict[str, Sequence[Any]]:
    """What each section shows."""
    target = analysis.imitation.target("generated", VIEW)
    return {
        "images": [gallery(grids)],
        "tokens": [departures_table(analysis), places_charts(analysis), ranks_table(analysis)],
        "codes": [code_figures(analysis)],
        "latents": [targets_table(analysis), cells_table(analysis, target), far_table(analysis, target)],
        "plane": [html.part("box", "beside", [plane_chart(analysis), far_chart(analysis)])],
        "effects": [effects_table(analysis.effects), spectrum_chart(analysis), colors_table(analysis.effects)],
        "changes": [changes_table(analysis.changes)],
        "protocol": [html.part("definitions", "facts", protocol(analysis.protocol))],
    }


def protocol(p: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and note of what to repeat to get these numbers."""
    images, resize = p["images"], f", {p['resize']}" if "resize" in p else ""
    drawn = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in p["sampling"].items() if name != "type")
    facts = {
        "Images": f"{p['count']} and as many others of {images.get('name', 'a set')} ({images['count']})",
        "Sampling": f"{drawn}; seed {p['seed']}",
        "Tokens": f"{p['tokens_per_image']} an image, of {p['codebook_size']} codes",
        "Features": f"{p['features']}{resize}",
        "Generator": f"fingerprint {p['generator']}",
        "Perturbed": f"{cell_name(p['perturbed'])}, the middle cell of pFID",
        "Perturbed as departing": f"{cell_name(p['perturbed as departing'])}, as teacher forcing",
    }
    return [(name, fact, "") for name, fact in facts.items()]
