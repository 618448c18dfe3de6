"""Settings in layers: a preset, then configuration files, then what was typed; merged as plain values, read once."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from robustok.runtime.configs import from_plain, to_plain

Config = TypeVar("Config")
MOST, DEEPEST = 10_000, 50  # values in settings, and how deeply they are nested


class _Loader(yaml.SafeLoader):
    """YAML as it is meant where it is typed: 1e-4 is a number (YAML 1.1 wants 1.0e-4), a date is a text, 010 is ten.

    Whole numbers are those of YAML 1.2: decimal, or 0x and 0o; 1.1 reads 010 as eight and 1:30 as ninety. A name that
    comes twice is refused: of two values only one could count.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"it says {twice[0]} twice, and only one can count; leave out the other")
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 0 if {"x", "o"} & set(text) else 10)


def _number(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"[-+]?(?:{pattern})\Z")


_WHOLE = _number(r"[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+")
_BROKEN = _number(r"(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF|nan|NaN|NAN)")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("timestamp", "int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _WHOLE, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _BROKEN, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def layered(preset: Config, files: Iterable[Path], typed: Iterable[tuple[str, str]]) -> Config:
    """A preset with the settings of files and of the command line, the later one winning.

    `typed` are pairs ("post.optim.lr", "1e-4") in any order: what a part is goes before what is set in it. Raises
    ValueError for what cannot be read, for an unknown setting (naming the nearest), for a value of the wrong type, and
    for what a config refuses.
    """
    plain = to_plain(preset)
    for file in files:
        plain = merge(plain, _placed(from_file(file), plain, file))
    for name, value in sorted(typed, key=lambda pair: pair[0].count(".")):  # another kind of part starts anew
        layer = from_text(value, f"--{name}")
        for part in reversed(name.split(".")):
            layer = {part: layer}
        plain = merge(plain, layer)
    return from_plain(type(preset), plain)


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`, dictionary by dictionary; another "type" of config starts from its own defaults."""
    if not isinstance(below, dict):
        return above
    if isinstance(above, str):  # `--tokenizer.encoder ViT`
        above = {"type": above}
    if not isinstance(above, dict) or above.get("type", below.get("type")) != below.get("type"):
        return above
    return below | {name: merge(below.get(name), value) for name, value in above.items()}


def from_file(path: Path) -> dict[str, Any]:
    """The settings in a JSON or YAML file. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a JSON or YAML file of settings to --config")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text; give a JSON or YAML file of settings to --config") from error
    values = from_text(text, str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; settings are names with values, one under another")
    if {"kind", "config"} <= values.keys():
        raise ValueError(f"{path} is of a model and not of a run; give the run.json beside it, or a file of settings")
    if {"loop", "stage"} <= values.keys():  # the run.json of a run folder, with what the run was of beside its settings
        if not isinstance(stage := values["stage"], dict):
            raise ValueError(f"{path} says of its stage {stage!r}, which is no settings; give the run.json of a folder")
        return stage
    return values


def _placed(values: dict[str, Any], plain: dict[str, Any], path: Path) -> dict[str, Any]:
    """Settings of a part, as the run.json of a stage has them, where that part is. Raises ValueError for none of it."""
    kind = values.get("type", plain["type"])
    if kind == plain["type"]:
        return values
    holders = [name for name, part in plain.items() if isinstance(part, dict) and part.get("type") == kind]
    if len(holders) != 1:
        raise ValueError(f"{path} holds settings of a {kind}, and here those of a {plain['type']} are wanted")
    return {holders[0]: values}


def from_text(text: str, where: str) -> Any:
    """JSON or YAML as a value: 1e-4 a number, [16, 32] a list, null nothing, ViT a word. Raises ValueError."""
    try:
        if sum(map(text.count, "[{-?:")) > MOST:  # as deep as that, the parser ends the process
            raise ValueError("it holds more than settings do")
        value = yaml.load(text, _Loader)
        _check_extent(value)
        return value
    except Exception as error:  # the parser's own kinds of error
        raise ValueError(f"{where} cannot be read as JSON or YAML: {error}") from error


def _check_extent(value: Any) -> None:
    """Refuse, by a ValueError, values nested too deeply, or in themselves, or that YAML's aliases multiply."""
    seen, left = 0, [(value, 0)]
    while left:
        part, depth = left.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST:
            raise ValueError("it is nested more deeply than settings are, or holds more")
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        left += [(one, depth + 1) for one in inner]


def seeded(config: Any, seed: int | None, typed: Iterable[tuple[str, str]]) -> Any:
    """The config of a stage or of a demo with everything random derived from `seed`; as it is where that is None.

    Raises ValueError where a setting was typed that says the same.
    """
    if seed is None:
        return config
    for name, _ in typed:
        if name.endswith("loop.seed"):
            raise ValueError(f"--seed and --{name} both say what everything random derives from; give one of them")
    if hasattr(config, "with_seed"):
        return config.with_seed(seed)
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, seed=seed))
