"""Help of robustok and of each verb, made of the commands alone; text for a terminal."""

import dataclasses
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from robustok.cli.options import LISTING, Command, Configurable, Option, name_of, options_of
from robustok.report.table import Column, Table
from robustok.runtime.configs import comments, to_plain

WIDTH = 100  # columns, at most


def overview(verbs: Sequence[type[Command]]) -> str:
    """The text of `robustok --help`."""
    parts = [
        f"{bold('robustok')}  image tokenizers that generators can rely on: latent perturbation, pFID, decoder "
        "post-training",
        "usage: robustok <verb> [options]",
    ]
    for group, members in groupby(verbs, key=lambda verb: verb.group):
        parts.append(f"{bold(group)}\n{table((f'{name_of(verb):<17}', about(verb)[0]) for verb in members)}")
    parts.append("robustok <verb> --help says what a verb reads and writes. robustok --version says which one this is.")
    return "\n\n".join(parts)


def help_of(verb: type[Command]) -> str:
    """A verb's help: how to type it, what it reads and writes, its options."""
    options, told = options_of(verb), explanations(verb)
    needed = [option.shown for option in options if option.positional or option.required]
    usage = " ".join(["robustok", name_of(verb), *needed, "[options]"])
    rows = ((option.shown, _explained(option, told.get(option.field, option.help))) for option in options)
    parts = [f"{bold(usage)}\n\n{filled(about(verb)[1])}", table(rows)]
    if issubclass(verb, Configurable):
        parts.append(
            filled(
                f"Any setting can be typed too, as --name.of.it VALUE; --{LISTING} lists all with their values. "
                "Files given by --config come first, the last one wins, what is typed wins over them."
            )
        )
    if verb.resumes:
        parts.append(filled("Stop it whenever you like: the same command goes on where it was."))
    return "\n\n".join(filter(None, parts))


def about(verb: type[Command]) -> tuple[str, str]:
    """A verb in a line, and what it reads and writes, in paragraphs of a line each."""
    line, *rest = (" ".join(part.split()) for part in (inspect.getdoc(verb) or verb.__name__).split("\n\n"))
    return line[0].lower() + line[1:].rstrip("."), "\n".join(rest)


def explanations(kind: type) -> dict[str, str]:
    """The comments of all fields of a command, also of those of the classes that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        found |= comments(base)
    return found


def _explained(option: Option, text: str) -> str:
    """An option's help with its default."""
    plain = option.default in (None, "", ()) or option.positional or option.switch
    return text if plain else f"{text} ({option.default})"


def listing(config: Any) -> str:
    """Every setting with its value and its comment, config by config."""
    return "\n".join(_lines(config, "")).strip()


def _lines(config: Any, prefix: str) -> Iterator[str]:
    nested = []
    explained = comments(type(config))
    summary = (inspect.getdoc(type(config)) or "").split("\n")[0]
    yield f"\n{bold(prefix.rstrip('.') or type(config).__name__)}  {summary}"
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            nested.append((field.name, value))
            continue
        shown = json.dumps(to_plain(value)).strip('"')
        yield f"  --{prefix}{field.name} {shown}".ljust(62) + f"  {explained.get(field.name, '')}".rstrip()
    for name, value in nested:
        yield from _lines(value, f"{prefix}{name}.")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Names and explanations in columns."""
    lines = list(rows)
    columns = [Column("", left=True) for _ in (lines or [()])[0]]
    return Table(columns=columns, rows=lines).to_text(WIDTH, widest=34)


def filled(text: str) -> str:
    """Paragraphs broken into lines."""
    return "\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in text.split("\n"))


def bold(text: str) -> str:
    """Text that stands out on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
