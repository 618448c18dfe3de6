"""Configs to JSON and back: frozen dataclasses <-> plain dictionaries that name their type."""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from robustok.runtime.words import did_you_mean

LARGEST = 2**63 - 1  # of whole numbers other than seeds
FORMER = {  # fields by the names that they had up to version 0.1, in files written then
    "guided_from": "guidance_low",
    "guided_to": "guidance_high",
    "guided": "guided_steps",
    "check_every": "validate_every",
    "heads": "lin_layers",
}
GONE = {"duration"}  # fields that such files may have and that say nothing any more

_written: dict[str, type] = {}  # types of configs that were written in this process, by name


def to_plain(config: Any) -> Any:
    """A config as JSON values: `VQ(size=512)` becomes `{"type": "VQ", "size": 512, ...}`, a tuple a list.

    Raises ValueError for a value that JSON cannot hold.
    """
    match config:
        case _ if dataclasses.is_dataclass(config) and not isinstance(config, type):
            fields = {
                field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init
            }
            _written[type(config).__name__] = type(config)
            return {"type": type(config).__name__} | fields
        case list() | tuple():
            return [to_plain(value) for value in config]
        case dict() if all(isinstance(key, str) for key in config):
            return {key: to_plain(value) for key, value in config.items()}
        case float() if not math.isfinite(config):
            raise ValueError(f"a config holds {config}, which JSON cannot; use a finite number or None")
        case None | bool() | int() | float() | str():
            return config
        case Path():
            return str(config)
    raise ValueError(
        f"a config holds a {type(config).__name__}; use dataclasses, numbers, strings, lists and dictionaries"
    )


def completed(plain: Any) -> Any:
    """What `to_plain` wrote before configs had all of today's fields: those take their defaults, as in `from_plain`.

    So a run of an older version is one with today's settings where nothing new was set. Of types that were not given to
    `to_plain` in this process nothing is known; they stay as they are.
    """
    if isinstance(plain, list):
        return [completed(value) for value in plain]
    if not isinstance(plain, dict):
        return plain
    fields = {name: completed(value) for name, value in plain.items()}
    kind = _written.get(str(plain.get("type")))
    for field in dataclasses.fields(kind) if kind else ():
        if field.init and field.name not in fields:
            if field.default is not dataclasses.MISSING:
                fields[field.name] = to_plain(field.default)
            elif field.default_factory is not dataclasses.MISSING:
                fields[field.name] = to_plain(field.default_factory())
    return fields


def from_plain(kind: Any, data: Any, where: str = "") -> Any:
    """The config that `to_plain` turned into `data`, read by the type hints of `kind`.

    `kind` is a dataclass, a union of dataclasses (chosen by "type") or any hint a config's field may have.
    A field that `data` lacks takes its default. Raises ValueError for an unknown or missing field, a wrong
    type or an unknown "type"; it names the place, what was wanted, what came, and the nearest name.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _from_union(arguments, data, where)
    if origin is Literal:
        if data not in arguments or type(data) not in map(type, arguments):
            raise ValueError(f"{_at(where)} {data!r}{did_you_mean(data, arguments, repr)}")
        return data
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _from_fields(kind, data, where)
    if origin in (tuple, list):
        if type(data) is str and arguments == (str, Ellipsis):  # names as one types them: lite0, or lite0,lite2
            data = [name.strip() for name in data.split(",") if name.strip()]
        values = _expect(list, data, where)
        kinds = arguments or (Any,)
        if origin is list or not arguments or kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(values)
        if len(kinds) != len(values):
            raise ValueError(f"{_at(where)} {data!r}; it should have {len(kinds)} entries, not {len(values)}")
        entries = enumerate(zip(kinds, values, strict=True))
        return origin(from_plain(entry, value, f"{where}[{i}]") for i, (entry, value) in entries)
    if origin is dict:
        value_kind = arguments[1] if arguments else Any
        return {key: from_plain(value_kind, v, _join(where, key)) for key, v in _expect(dict, data, where).items()}
    if kind is float and type(data) is int and abs(data) <= LARGEST:
        return float(data)
    if kind is Path:
        return Path(_expect(str, data, where))
    if kind in (bool, int, float, str, None, types.NoneType):
        return _expect(kind or types.NoneType, data, where)
    raise ValueError(f"{_at(where)} cannot be read as {kind}; a config's fields are plain values and dataclasses")


def check_choices(config: Any) -> None:
    """Raises ValueError for a field of a dataclass that is none of the values of its `Literal` type."""
    for name, kind in typing.get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            known = ", ".join(map(repr, get_args(kind)))
            raise ValueError(f"{name} is {getattr(config, name)!r}; choose from {known}")


def check_least(config: Any, least: float, *names: str) -> None:
    """Raises ValueError for a field that is less than it may be."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}")


def check_shares(config: Any, *names: str) -> None:
    """Raises ValueError for a field that is no share."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it is a share, choose one between 0 and 1")


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def comments(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass, which is its help: behind it, or above it in lines of its own."""
    text = "".join(inspect.getsource(base) for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base))
    found = re.findall(r"((?:^    # .*\n)*)^    (\w+): .*?(?:  # (.*))?$", text, re.MULTILINE)
    return {name: behind or " ".join(re.findall(r"# (.*)", above)) for above, name, behind in found if above or behind}


def _from_fields(kind: type, data: Any, where: str) -> Any:
    """A dataclass from a dictionary."""
    values = dict(_expect(dict, data, where))
    given = values.pop("type", kind.__name__)
    if given != kind.__name__:
        raise ValueError(f"{_at(where)} {given!r}{did_you_mean(given, [kind.__name__], repr)}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in list(values):
        if name not in fields and FORMER.get(name) in fields and FORMER[name] not in values:
            values[FORMER[name]] = values.pop(name)
        elif name not in fields and name in GONE:
            del values[name]
        elif name not in fields:
            hint = did_you_mean(name, fields, repr)
            raise ValueError(f"{_join(where, name)} is not a field of {kind.__name__}{hint}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise ValueError(f"{_join(where, name)} is missing; {kind.__name__} needs it, so add it")
    return kind(**{name: from_plain(hints[name], value, _join(where, name)) for name, value in values.items()})


def _from_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    """The member of a union that `data` is: a dataclass by "type", else the first plain kind that fits."""
    classes = {kind.__name__: kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    if isinstance(data, dict) and classes:
        name = data.get("type", next(iter(classes)) if len(classes) == 1 else None)
        if not isinstance(name, str) or name not in classes:
            raise ValueError(f"{_at(where)} {name!r}{did_you_mean(name, classes, repr)}")
        return from_plain(classes[name], data, where)
    for kind in kinds:
        if kind not in classes.values():
            try:
                return from_plain(kind, data, where)
            except ValueError:
                continue
    wanted = " or ".join(
        ", ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else getattr(kind, "__name__", str(kind))
        for kind in kinds
    )
    raise ValueError(f"{_at(where)} {data!r}; it should be {wanted}")


def _expect(kind: type, data: Any, where: str) -> Any:
    if type(data) is tuple and kind is list:
        return list(data)
    if type(data) is not kind:
        raise ValueError(f"{_at(where)} {data!r}; it should be of type {kind.__name__}")
    if isinstance(data, int) and abs(data) > LARGEST and where.rpartition(".")[2] != "seed":  # seeds: any
        raise ValueError(
            f"{_at(where)} a number of more than 63 bits, which nothing here can count; give a smaller one"
        )
    return data


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at(where: str) -> str:
    return f"{where} is" if where else "the config is"
