"""`robustok report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robustok.cli.options import Command, Option


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """One HTML page of a run.

    Reads a run's folder, finished or not. Writes report.html into it, which needs no other file.
    """

    group = "Look"

    # the folder that `robustok demo` wrote to, or that of one stage
    dir: Annotated[Path, Option(writes="folder", positional=True)]

    def run(self) -> None:
        from robustok.report.page import write_report

        print(f"report: {write_report(self.dir)}")
