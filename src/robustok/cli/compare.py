"""`robustok compare`."""

from pathlib import Path

from robustok.cli.options import Command
from robustok.report.system_table import system_table
from robustok.report.systems import read_systems
from robustok.report.table_formats import FORMATS, SUFFIXES, in_words
from robustok.runtime.checkpoint import write_bytes


def compare(command: Command) -> None:
    """Print the table, or write it and print what the gaps mean."""
    metrics = tuple(dict.fromkeys(command.metrics.split(","))) if command.metrics else None
    name = command.format or _format_of(command.out)
    sources = [source(text) for text in command.scores]
    if command.out is not None and command.out.resolve() in [path.resolve() for _, path in sources]:
        raise ValueError(f"{command.out} is one of the files that are compared; give another --out")
    made = system_table(read_systems(sources, metrics), metrics, baseline=command.baseline or "", force=command.force)
    text = FORMATS[name](made)
    if command.out is None:
        print(text, end="")
        return
    try:
        write_bytes(command.out, text.encode())
    except OSError:
        print(text, end="", flush=True)  # a table that was made is not lost
        raise
    if not command.quiet:
        print("\n".join([*in_words(made), f"table: {command.out}"]))


def source(text: str) -> tuple[str, Path]:
    """`NAME=FILE` or `FILE` as a name or "" and a path; what exists as it is typed is no name."""
    name, given, path = text.partition("=")
    return (name, Path(path)) if given and not Path(text).exists() else ("", Path(text))


def _format_of(out: Path | None) -> str:
    """Markdown on the screen; in a file what its suffix says. Raises ValueError for another suffix."""
    if out is None:
        return "markdown"
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out} does not say its format; end it in {', '.join(SUFFIXES)}, or add --format")
    return SUFFIXES[out.suffix.lower()]
