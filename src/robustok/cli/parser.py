"""Words to a command, or to the text that was asked for instead of it."""

import inspect
from collections import Counter, defaultdict
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from robustok.cli.help import help_of, listing
from robustok.cli.options import LISTING, Command, Configurable, Option, check_names, name_of, options_of
from robustok.runtime.words import did_you_mean


class Words(NamedTuple):
    """Words by what they are."""

    values: dict[str, list[str]]  # of options, by their fields; of a switch an empty word
    loose: list[str]  # for positional options
    typed: list[tuple[str, str]]  # settings and their values
    listing: bool  # whether settings are to be listed


def parse(verb: type[Command], words: Sequence[str]) -> Command | str:
    """The command; or, if that is what was asked for, its help or the list of its settings.

    Raises ValueError, which names the nearest option for an unknown one.
    """
    if {"-h", "--help"} & set(words):
        return help_of(verb)
    found = sort(verb, words)
    typed = tuple(found.typed)
    try:
        values = option_values(verb, found)
    except ValueError as error:
        if typed and issubclass(verb, Configurable):  # a misspelt option is what is missing, perhaps
            check_names(verb, typed, verb.start())
        raise ValueError(f"{error}; see robustok {name_of(verb)} --help") from error
    if not (found.listing and issubclass(verb, Configurable)):
        return verb(**values | ({"typed": typed} if typed else {}))
    from robustok.cli.settings import layered

    preset = verb.start(**{name: values[name] for name in inspect.signature(verb.start).parameters if name in values})
    check_names(verb, typed, preset)
    return listing(layered(preset, values.get("config", ()), typed))


def sort(verb: type[Command], words: Sequence[str]) -> Words:
    """Words by what they are. Raises ValueError for an unknown option, one without a value, and one given twice."""
    own = {option.name: option for option in options_of(verb) if not option.positional}
    settable, listing, rest = issubclass(verb, Configurable), False, list(words)
    values, loose, typed = defaultdict[str, list[str]](list), list[str](), list[tuple[str, str]]()
    while rest:
        word = rest.pop(0)
        name, has_value, value = word[2:].partition("=")
        option = own.get(name.replace("_", "-"))
        if not word.startswith("--"):
            loose.append(word)
        elif option is None and not settable:
            raise ValueError(f"there is no option --{name}{did_you_mean(f'--{name}', [f'--{n}' for n in own])}")
        elif option is None and name == LISTING:
            listing = True
        elif option is not None and option.switch:
            if has_value:
                raise ValueError(f"--{name} is a switch and takes no value, not {value!r} either")
            values[option.field] = [""]
        else:
            if not has_value:
                if not rest or rest[0].startswith("--"):
                    raise ValueError(_without_value(name, option, list(own)))
                value = rest.pop(0)
            elif value == "--":  # a slip, for nothing is called so
                raise ValueError(f"--{name} needs a value, and -- is none")
            if option is None:
                typed.append((name.replace("-", "_"), value))
            else:
                values[option.field].append(value)
    once = [option.name for option in own.values() if not option.several for _ in values.get(option.field, ())]
    for name, count in Counter(once + [name for name, _ in typed]).items():
        if count > 1:
            times = "twice" if count == 2 else f"{count} times"
            raise ValueError(f"--{name} is given {times}, and only one can count; leave out the others")
    return Words(values, loose, typed, listing)


def _without_value(name: str, option: Option | None, own: Sequence[str]) -> str:
    if option is not None:
        return f"argument --{name}: expected one argument, the {option.value or 'choice'}"
    near = get_close_matches(name, [*own, LISTING], n=1)
    return f"--{name} is a setting and needs a value" + (f", or did you mean --{near[0]}?" if near else "")


def option_values(verb: type[Command], words: Words) -> dict[str, Any]:
    """The values of the options that were given, by their fields.

    Raises ValueError for a value that an option does not take, a word too many, and, unless settings are to be
    listed, for an option that is missing.
    """
    loose, missing, values = list(words.loose), list[str](), dict[str, Any]()
    for option in options_of(verb):
        given = words.values.get(option.field, [])
        if option.positional:
            count = len(loose) if option.several else 1
            given, loose = loose[:count], loose[count:]
        if not given:
            missing += [option.typed] * option.required
        elif option.switch:
            values[option.field] = True
        else:
            found = [option.read(text) for text in given]
            values[option.field] = tuple(found) if option.several else found[0]
    if loose:
        raise ValueError(f"unrecognized arguments: {' '.join(loose)}")
    if missing and not words.listing:
        raise ValueError(f"the following arguments are required: {', '.join(missing)}")
    return values
