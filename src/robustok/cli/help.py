"""Help of robustok and of each verb, made of the commands alone."""

import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import Any, get_type_hints

from robustok.cli.options import LISTING, Command, Configurable, Option, name_of, options_of
from robustok.cli.terminal import bold, filled, table
from robustok.runtime.configs import comments


def overview(verbs: Sequence[type[Command]]) -> str:
    """What `robustok --help` says."""
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
    options, told = list(options_of(verb)), explanations(verb)
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
    """What a verb does, in a line, and what it reads and writes, in paragraphs of a line each."""
    line, *rest = (" ".join(part.split()) for part in (inspect.getdoc(verb) or verb.__name__).split("\n\n"))
    return line[0].lower() + line[1:].rstrip("."), "\n".join(rest)


def explanations(kind: Any) -> dict[str, str]:
    """The comments of all fields of a command, with those of its groups and of the classes that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for hint in get_type_hints(base).values() if base is not object else ():
            found |= explanations(hint) if hasattr(hint, "__dataclass_fields__") else {}
        found |= comments(base) if base is not object else {}
    return found


def _explained(option: Option, text: str) -> str:
    """An option's help with its default."""
    plain = option.default in (None, "", ()) or option.positional or option.switch
    return text if plain else f"{text} ({option.default})"
