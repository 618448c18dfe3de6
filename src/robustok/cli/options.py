"""Commands: a verb is a frozen dataclass whose fields are the options that can be typed after it.

`count: Count = 100  # how many images` is an option `--count N` with its help, which may also stand in lines of its
own above the field. A bool is a switch, a Literal a choice, a tuple an option that may come several times, and a field
without a default is required. Options that several verbs have are dataclasses that their verbs derive from.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from robustok.runtime.words import did_you_mean

LISTING = "settings"  # the option that lists every setting
NO_OPTION = {"option": False}  # metadata of a field that is not typed by its name
Config = TypeVar("Config")


@dataclass(frozen=True)
class Option:
    """One option: `--name VALUE`, a switch, or a positional word, which help writes in capitals."""

    value: str = ""  # what help calls its value
    kind: Callable[[str], Any] = str  # from what was typed to the value; raises ValueError
    help: str = ""  # unless a comment says it
    choices: tuple[str, ...] = ()
    writes: Literal["", "file", "folder"] = ""  # what is written there; the place is tried before any work
    positional: bool = False

    field: str = ""  # this and what follows is told by the field
    default: Any = None
    required: bool = False
    several: bool = False  # whether it may be given several times
    switch: bool = False

    @property
    def name(self) -> str:
        """As it is typed, without the hyphens; of a positional word, as help writes it."""
        name = self.field.replace("_", "-")
        return name.upper() + "..." * self.several if self.positional else name

    @property
    def typed(self) -> str:
        """As an error calls it."""
        return self.field if self.positional else f"--{self.name}"

    @property
    def shown(self) -> str:
        """As help writes it."""
        if self.positional or self.switch:
            return self.name if self.positional else f"--{self.name}"
        return f"--{self.name} {self.value or '|'.join(self.choices)}"

    def read(self, text: str) -> Any:
        """The value that was typed. Raises ValueError."""
        if not text.strip():  # as of a variable that a script forgot to set, which Path takes for the folder we are in
            raise ValueError(f"argument {self.typed}: it is empty; give its value, or leave it out")
        try:
            value = self.kind(os.path.expanduser(text))  # the shell does not in --out=~/runs
        except ValueError as error:
            raise ValueError(f"argument {self.typed}: {error}") from error
        if self.choices and value not in self.choices:
            names = ", ".join(map(repr, self.choices))
            raise ValueError(f"argument {self.typed}: invalid choice: {value!r} (choose from {names})")
        return value


@dataclass(frozen=True, kw_only=True)
class Command:
    """The words after a verb. A command's docstring is its help: what it does, then what it reads and writes."""

    group: ClassVar[str]  # heading that the overview lists it under
    resumes: ClassVar[bool] = False  # whether the same command goes on after a stop

    def run(self) -> None:
        """Do it. Only here torch and all that needs it is imported, so that help is there at once."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Verbose(Command):
    """A command that tells what it does, unless it is told to be quiet."""

    quiet: bool = False  # say nothing on the way

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


@dataclass(frozen=True, kw_only=True)
class Shared(Verbose):
    """A command that the processes which torchrun started do together; all but one are quiet."""


@dataclass(frozen=True, kw_only=True)
class Configurable(Command):
    """A command with which any setting of a config can be typed."""

    start: ClassVar[Callable[..., Any]]  # from the options that are its parameters to the config before settings

    config: tuple[Path, ...] = ()  # a JSON or YAML file of settings; may come several times
    typed: tuple[tuple[str, str], ...] = field(default=(), metadata=NO_OPTION)  # as ("post.optim.lr", "1e-4")

    def chosen(self) -> Any:
        """The config that the options choose."""
        return self.start(**{name: getattr(self, name) for name in inspect.signature(self.start).parameters})

    def over(self, preset: Config) -> Config:
        """The preset under what configuration files and the command line set. Raises ValueError."""
        from robustok.cli.settings import layered

        check_names(type(self), self.typed, preset)
        return layered(preset, self.config, self.typed)


def options_of(kind: type) -> list[Option]:
    """The options of a command, its own ones first."""
    hints, fields = get_type_hints(kind, include_extras=True), {part.name: part for part in dataclasses.fields(kind)}
    names = dict.fromkeys(name for base in kind.__mro__ for name in inspect.get_annotations(base))
    options = (fields[name] for name in names if name in fields and fields[name].metadata != NO_OPTION)
    return [_option(part.name, hints[part.name], part.default) for part in options]


def _option(name: str, hint: Any, default: Any) -> Option:
    """The option of a field, by its type: a plain one such as `str | None`, or one that carries an `Option`."""
    union = get_origin(hint) in (Union, UnionType)
    kind: Any = next(part for part in get_args(hint) if part is not NoneType) if union else hint
    given = Option()
    if get_origin(kind) is Annotated:
        kind, given = get_args(kind)
    several = get_origin(kind) is tuple and given.kind is str
    kind = get_args(kind)[0] if several else kind
    choices = get_args(kind) if get_origin(kind) is Literal else given.choices
    return replace(
        given,
        field=name,
        value=given.value or ("" if choices else "FILE" if kind is Path else "NAME"),
        kind=Path if kind is Path else given.kind,
        choices=choices,
        default=None if default is MISSING else default,
        required=default is MISSING,
        several=several,
        switch=kind is bool,
    )


def name_of(verb: type[Command]) -> str:
    """`TrainTokenizer` is typed as train-tokenizer."""
    return re.sub(r"(?<!^)([A-Z])", r"-\1", verb.__name__).lower()


def verb_named(name: str, verbs: Iterable[type[Command]]) -> type[Command]:
    """The verb of a name. Raises ValueError for another name, with the nearest one."""
    by_name = {name_of(verb): verb for verb in verbs}
    if name not in by_name:
        raise ValueError(f"there is no verb {name!r}{did_you_mean(name, by_name)}")
    return by_name[name]


def check_names(verb: type[Command], typed: Iterable[tuple[str, str]], preset: Any) -> None:
    """Refuse, by a ValueError, a setting that begins with no field of the preset, with the nearest option or field."""
    fields = [part.name for part in dataclasses.fields(preset)]
    for name, _ in typed:
        first, *deeper = name.split(".")
        if first not in fields:
            options = [option.name for option in options_of(verb) if not option.positional]
            near = get_close_matches(first, fields if deeper else [*options, *fields], n=1)
            inside = [f"{field}.{first}" for field in fields if hasattr(getattr(preset, field), first)]
            near = inside if len(inside) == 1 and not deeper else near
            hint = f"; did you mean --{'.'.join([*near, *deeper])}?" if near else ""
            raise ValueError(f"there is no option or setting --{name}{hint}; --{LISTING} lists every setting")
