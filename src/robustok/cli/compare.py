"""`robustok compare`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from robustok.cli.arguments import OutFile
from robustok.cli.options import Option, Verbose
from robustok.runtime.places import home


@dataclass(frozen=True, kw_only=True)
class Compare(Verbose):
    """A table of several systems, and what the gaps between them mean.

    Reads files that evaluate --out wrote, and folders that demo wrote. A system is what a file is named by NAME=FILE,
    else by --name of evaluate, else where it lies; files of one name are its runs, and its scores the means over them.
    The decoders of one run are NAME:before, NAME:control and NAME:after.

    Scores that were not computed alike are refused, with the first thing that differs.

    Writes the table, and a sentence for each gap to the baseline: whether it is within the noise, over seeds (the same
    seeds are paired), else over images.
    """

    group = "Measure"

    scores: Annotated[tuple[str, ...], Option(positional=True)]  # files or folders, as FILE or NAME=FILE
    # columns, in this order; all usual ones unless given
    metrics: Annotated[str, Option("rfid,gfid,...")] | None = None
    baseline: str = ""  # system that the others are compared with; the first unless given
    # of the table; else by the suffix of --out
    format: Literal["markdown", "latex", "csv", "html"] | None = None
    out: OutFile | None = None  # file to write to: .md, .tex, .csv or .html
    force: bool = False  # compare what was not computed alike, unranked, with a note on the table

    def run(self) -> None:
        """Print the table, or write it and print what the gaps mean."""
        from robustok.report.system_table import FORMATS, system_table
        from robustok.report.systems import read_systems
        from robustok.runtime.checkpoint import write_bytes

        metrics = tuple(dict.fromkeys(self.metrics.split(","))) if self.metrics else None
        name = self.format or _format_of(self.out)
        sources = [source(text) for text in self.scores]
        if self.out is not None:
            _check_out(self.out, name, [path for _, path in sources])
        made = system_table(read_systems(sources, metrics), metrics, baseline=self.baseline, force=self.force)
        text = FORMATS[name](made)
        if self.out is None:
            print(text, end="")
            return
        try:
            write_bytes(self.out, text.encode())
        except OSError:
            print(text, end="", flush=True)  # a table that was made is not lost
            raise
        self.say("\n".join([*made.in_words(), f"table: {self.out}"]))


def source(text: str) -> tuple[str, Path]:
    """`NAME=FILE` or `FILE` as a name or "" and a path; what exists as it is typed is no name."""
    name, given, path = text.partition("=")
    return (name, home(path)) if given and not Path(text).exists() else ("", Path(text))


def _check_out(out: Path, name: str, compared: Iterable[Path]) -> None:
    """Refuse, by a ValueError, to write into what is compared, or over anything but an earlier table of the format."""
    from robustok.report.system_table import is_table

    for path in compared:
        if out.resolve() == path.resolve():
            raise ValueError(f"{out} is one of the files that are compared; give another --out")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{out} lies in {path}, which is compared; give an --out outside of it")
    if out.is_file() and not is_table(out, name):
        raise ValueError(f"{out} is there already and holds no table of systems in {name}; give another --out")


def _format_of(out: Path | None) -> str:
    """Markdown on the screen; in a file what its suffix says. Raises ValueError for another suffix."""
    from robustok.report.system_table import SUFFIXES

    if out is None:
        return "markdown"
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out} does not say its format; end it in {', '.join(SUFFIXES)}, or add --format")
    return SUFFIXES[out.suffix.lower()]
