"""The page itself: what a run did, in the order in which one asks."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from robustok.report import html
from robustok.report.ablation import ablation
from robustok.report.curves import codebook_use, held_out, losses
from robustok.report.images import gallery
from robustok.report.protocol import costs, protocol
from robustok.report.run import GROUPS, STAGES, Run, read_run
from robustok.report.scores import copies, distances_table, effects, figures, generated_table, heat_map, spaces_table
from robustok.runtime.checkpoint import write_bytes


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, all of it or none, and return its path.

    The page needs no other file: styles, charts and images are inside it, and it has no script. What the run has
    not made yet is named on the page, and what is damaged in a warning, too. Raises ValueError for a folder that holds
    nothing of a run.
    """
    path, run = Path(run_folder) / "report.html", read_run(Path(run_folder))
    if run.damaged:
        warnings.warn(f"the page of {run_folder} leaves out what is damaged: {' '.join(run.damaged)}", stacklevel=2)
    write_bytes(path, page(run).encode())
    return path


def page(run: Run) -> str:
    """The whole HTML document; a section of which there is nothing is left out."""
    said = json.dumps([run.config, run.stage_configs, [r["protocol"] for r in run.scores]]).lower()
    return html.render("run", run=run, parts=shown(sections(run)), summary=summary(run), stages=STAGES, said=said)


def summary(run: Run) -> Markup:
    """One paragraph that says what a run did, with its numbers."""
    text = html.environment().get_template("summary.html.j2").render(run=run)
    return Markup(re.sub("[ \n]+", " ", text).strip())  # but for spaces that do not break


def sections(run: Run) -> dict[str, Sequence[Any]]:
    """The content of each section: tables, and parts that are HTML already; None where the run has nothing of it."""
    images = {group: [gallery([grid for grid in run.grids if grid.group == group])] for group in GROUPS}
    return {
        "scores": [distances_table(run), figures(run), generated_table(run), spaces_table(run)],
        "images": images["overview"],
        "pairs": [effects(run), *images["pairs"]],
        "changed": images["changed"],
        "nearest": [copies(run), *images["nearest"]],
        "pfid": [heat_map(run)],
        "ablation": ablation(run),
        "losses": losses(run),
        "codebook": [codebook_use(run)],
        "heldout": [held_out(run)],
        "cost": [costs(run)],
        "protocol": protocol(run),
    }


def shown(sections: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The sections that have something to show, and that."""
    kept = {name: [part for part in parts if part is not None] for name, parts in sections.items()}
    return {name: parts for name, parts in kept.items() if parts}
