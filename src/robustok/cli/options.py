"""What can be typed after a verb: its options, and any setting of the configuration behind it."""

import argparse
import dataclasses
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, NoReturn

from robustok.report.table import Column, Table

WIDTH = 100  # columns of help, at most
LISTING = "settings"  # the option that lists every setting


@dataclass(frozen=True)
class Option:
    """One option: `--name VALUE`, a switch if it takes no value, or a positional word if its name is in capitals.

    `NAMES...` stands for one word or more.
    """

    name: str
    help: str
    value: str = ""  # what help calls its value
    kind: Callable[[str], Any] = str  # from what was typed to the value
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    writes: Literal["", "file", "folder"] = ""  # what is written there; the place is tried before any work

    @property
    def positional(self) -> bool:
        return self.name.isupper()

    @property
    def takes_value(self) -> bool:
        """Whether a word follows it, rather than that it is a switch."""
        return self.positional or bool(self.value or self.choices)

    @property
    def several(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.default, list)

    @property
    def shown(self) -> str:
        """The option as help writes it."""
        if self.positional:
            return self.name
        return " ".join(filter(None, (f"--{self.name}", self.value or "|".join(self.choices))))


@dataclass(frozen=True)
class Verb:
    """One command, and what its help says."""

    name: str
    group: str  # heading that the overview lists it under
    line: str  # what it does, in a line
    about: str  # what it reads and writes
    work: str  # "module:function" that does it, imported when it is run
    options: tuple[Option, ...]
    preset: str = ""  # "module:function" from a preset's name to the config whose settings can be typed
    chosen_by: tuple[str, ...] = ("preset",)  # the options that the function takes
    resumes: bool = False  # whether the same command goes on after a stop
    shared: bool = False  # whether the processes that torchrun started do it together; then one of them speaks

    @classmethod
    def named(cls, name: str, verbs: Iterable["Verb"]) -> "Verb":
        """The verb of a name. Raises ValueError for another name, with the nearest one."""
        by_name = {verb.name: verb for verb in verbs}
        if name not in by_name:
            raise ValueError(f"there is no verb {name!r}{nearest(name, by_name)}")
        return by_name[name]

    def run(self, command: "Command") -> None:
        """Do it, or print the help that was asked for."""
        if command.wants == "help":
            print(help_of(self))
            return
        if command.wants == LISTING:
            print(import_module("robustok.cli.settings").listing(command.over(command.start())))
            return
        self._try_places(command)
        if self.shared:
            distributed = import_module("robustok.runtime.distributed")
            with distributed.processes():
                command.options.quiet = command.quiet or not distributed.is_main()
                load(self.work)(command)
        else:
            load(self.work)(command)

    def _try_places(self, command: "Command") -> None:
        """Raises ValueError or OSError where what the verb writes could not be kept, before hours went into it."""
        for option in self.options:
            place = getattr(command.options, option.name.lower(), None)
            if option.writes and place is not None:
                import_module("robustok.runtime.places").check_writable(place, option.writes)

    def named_options(self) -> dict[str, Option]:
        return {option.name: option for option in self.options if not option.positional}


@dataclass(frozen=True)
class Command:
    """A command line that was read."""

    verb: Verb
    options: argparse.Namespace
    typed: tuple[tuple[str, str], ...] = ()  # settings, as ("post.optim.lr", "1e-4")
    wants: str = ""  # "help" or "settings" when that is all that was asked for

    def __getattr__(self, name: str) -> Any:
        return getattr(self.options, name)

    def start(self) -> Any:
        """The preset that the options choose."""
        chosen = (getattr(self.options, name) for name in self.verb.chosen_by if hasattr(self.options, name))
        return load(self.verb.preset)(*chosen)

    def over(self, preset: Any) -> Any:
        """The preset under what configuration files and the command line set. Raises ValueError."""
        check_names(self.verb, self.typed, preset)
        files = getattr(self.options, "config", None) or ()
        return import_module("robustok.cli.settings").layered(preset, files, self.typed)


def parse(verb: Verb, words: Sequence[str]) -> Command:
    """Words to options and settings. Raises ValueError that names the nearest option for an unknown one."""
    if {"-h", "--help"} & set(words):
        return Command(verb, argparse.Namespace(), wants="help")
    known, typed, listing = split(verb, words)
    _check_once(verb, known, typed)
    parser = _Parser(prog=f"robustok {verb.name}", add_help=False, allow_abbrev=False)
    for option in verb.options:
        _add(parser, option, needed=not listing)
    try:
        options = parser.parse_intermixed_args(known)  # words may stand between options
    except ValueError:
        if typed:  # a misspelt option is what is missing, perhaps
            check_names(verb, typed, load(verb.preset)())
        raise
    return Command(verb, options, typed, wants=LISTING if listing else "")


def split(verb: Verb, words: Sequence[str]) -> tuple[list[str], tuple[tuple[str, str], ...], bool]:
    """(words for the verb's own options, settings with their values, whether settings are to be listed)."""
    own, known, typed, listing = verb.named_options(), list[str](), list[tuple[str, str]](), False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word[2:].partition("=")
        option = own.get(name.replace("_", "-"))
        if not word.startswith("--"):
            known.append(word)
        elif option is not None:
            if value == "--":  # which argparse drops
                raise ValueError(f"--{name} needs a value, and -- is none")
            known.append(f"--{option.name}{has_value}{value}")
        elif name == LISTING and verb.preset:
            listing = True
        elif not verb.preset:
            raise ValueError(f"there is no option --{name}{nearest(f'--{name}', [f'--{n}' for n in own])}")
        else:
            if not has_value and (not rest or rest[0].startswith("--")):
                raise ValueError(_without_value(verb, name))
            typed.append((name.replace("-", "_"), value if has_value else rest.pop(0)))
    return known, tuple(typed), listing


def _check_once(verb: Verb, known: Sequence[str], typed: Sequence[tuple[str, str]]) -> None:
    """Raises ValueError for an option or a setting that is there twice, of which only one would count."""
    own = verb.named_options()
    names = [word[2:].partition("=")[0] for word in known if word.startswith("--")]
    once = [name for name in names if own[name].takes_value and not own[name].several]
    for name, count in Counter(once + [name for name, _ in typed]).items():
        if count > 1:
            times = "twice" if count == 2 else f"{count} times"
            raise ValueError(f"--{name} is given {times}, and only one can count; leave out the others")


def _without_value(verb: Verb, name: str) -> str:
    near = get_close_matches(name, [*verb.named_options(), LISTING], n=1)
    return f"--{name} is a setting and needs a value" + (f", or did you mean --{near[0]}?" if near else "")


def check_names(verb: Verb, typed: Iterable[tuple[str, str]], preset: Any) -> None:
    """Raises ValueError for a setting that begins with no field of the preset, with the nearest option or field."""
    fields = [field.name for field in dataclasses.fields(preset)]
    for name, _ in typed:
        first, *deeper = name.split(".")
        if first not in fields:
            near = get_close_matches(first, fields if deeper else [*verb.named_options(), *fields], n=1)
            hint = f"; did you mean --{'.'.join([*near, *deeper])}?" if near else ""
            raise ValueError(f"there is no option or setting --{name}{hint}; --{LISTING} lists every setting")


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` with the nearest of the names, or all of them when none is near."""
    known = list(names)
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(known)}" if known else ""


def load(place: str) -> Any:
    """What "module:name" stands for."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


class _Parser(argparse.ArgumentParser):
    """argparse, which raises where it would exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def _add(parser: argparse.ArgumentParser, option: Option, *, needed: bool) -> None:
    choices = option.choices or None
    if option.positional:
        name, several, _ = option.name.lower().partition("...")
        nargs = ("+" if several else None) if needed else ("*" if several else "?")
        parser.add_argument(name, nargs=nargs, default=option.default, choices=choices, type=option.kind)
    elif not option.takes_value:
        parser.add_argument(f"--{option.name}", action="store_true")
    else:
        parser.add_argument(
            f"--{option.name}",
            type=option.kind,
            default=option.default,
            required=option.required and needed,
            choices=choices,
            action="append" if option.several else "store",
        )


def help_of(verb: Verb) -> str:
    """A verb's help: how to type it, what it reads and writes, its options."""
    needed = [option.shown for option in verb.options if option.positional or option.required]
    usage = " ".join(["robustok", verb.name, *needed, "[options]"])
    parts = [f"{bold(usage)}\n\n{filled(verb.about)}", table((o.shown, _explained(o)) for o in verb.options)]
    if verb.preset:
        parts.append(
            filled(
                f"Any setting can be typed too, as --name.of.it VALUE; --{LISTING} lists all with their values. "
                "Files given by --config come first, the last one wins, what is typed wins over them."
            )
        )
    if verb.resumes:
        parts.append(filled("Stop it whenever you like: the same command goes on where it was."))
    return "\n\n".join(filter(None, parts))


def _explained(option: Option) -> str:
    """An option's help with its default."""
    default = option.default
    return option.help if default in (None, "", []) or option.positional else f"{option.help} ({default})"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and explanations in two columns."""
    return Table(columns=("", Column("", left=True)), rows=list(rows)).to_text(WIDTH, widest=34)


def filled(text: str) -> str:
    """Paragraphs broken into lines."""
    return "\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in text.split("\n"))


def bold(text: str) -> str:
    """Text that stands out on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
