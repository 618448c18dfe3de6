"""The page itself: what a run did, in the order in which one asks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustok.report import html
from robustok.report.ablation import ablation
from robustok.report.curves import codebook_use, held_out, losses
from robustok.report.images import gallery
from robustok.report.protocol import configuration, costs, protocol, sources
from robustok.report.run import GROUPS, Run, read_run
from robustok.report.scores import distances, figures, generated, headline, heat_map
from robustok.report.spaces import spaces
from robustok.report.summary import summary
from robustok.report.text import decimals, number
from robustok.runtime.checkpoint import write_bytes

SECTIONS = {  # anchor of a section: its link, in the order of the page
    "scores": "Scores",
    "images": "Images",
    "pairs": "Before and after",
    "changed": "Most changed",
    "pfid": "pFID",
    "ablation": "Ablation",
    "losses": "Losses",
    "codebook": "Codebook",
    "heldout": "Held-out check",
    "cost": "Time",
    "protocol": "Protocol",
    "configuration": "Configuration",
    "sources": "Sources",
}


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, all of it or none, and return its path.

    The page needs no other file: styles, charts and images are inside it, and it has no script. What the run has
    not made yet is named on the page. Raises ValueError for a folder that holds nothing of a run.
    """
    path = Path(run_folder) / "report.html"
    write_bytes(path, page(read_run(Path(run_folder))).encode())
    return path


def page(run: Run) -> str:
    """The whole HTML document; a section of which there is nothing is left out."""
    rfid = run.value("rfid_pfid_images")
    return html.page(
        "run",
        run=run,
        parts=shown(sections(run)),
        names=SECTIONS,
        summary=summary(run),
        headline=headline(run),
        rfid=None if rfid is None else number(rfid, decimals(rfid)),
    )


def sections(run: Run) -> dict[str, Sequence[Any]]:
    """What each section shows: tables, and parts that are HTML already; None where the run has nothing of it."""
    grids = {group: [grid for grid in run.grids if grid.group == group] for group in GROUPS}
    return {
        "scores": [distances(run), figures(run), generated(run), spaces(run)],
        "images": [gallery(grids["overview"])],
        "pairs": [gallery(grids["pairs"])],
        "changed": [gallery(grids["changed"])],
        "pfid": [heat_map(run)],
        "ablation": ablation(run),
        "losses": losses(run),
        "codebook": [codebook_use(run)],
        "heldout": [held_out(run)],
        "cost": [costs(run)],
        "protocol": protocol(run),
        "configuration": configuration(run),
        "sources": [sources(run)],
    }


def shown(sections: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The sections that have something to show, and that."""
    kept = {name: [part for part in parts if part is not None] for name, parts in sections.items()}
    return {name: parts for name, parts in kept.items() if parts}
