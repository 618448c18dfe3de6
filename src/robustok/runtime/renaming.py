"""Names and shapes of weights: other people's names to ours and back, tensors joined and cut, sizes told by shapes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from robustok.runtime.words import some

State: TypeAlias = Mapping[str, Tensor]
Renames: TypeAlias = Sequence[tuple[str, str]]  # (theirs, ours), see `renamed`


def renamed(name: str, table: Renames) -> str:
    """Our name for theirs: each pair of the table replaces theirs by ours, one pair after the other.

    A side is some whole parts of a dotted name; `*` stands for a number, the same on both sides in the same order, and
    `^` in front for the start of the name: `("^down.*.block.*.", "^levels.*.blocks.*.")`.
    """
    for pattern, ours in _patterns(tuple(table), False):
        name = pattern.sub(ours, name)
    return name


def original(name: str, table: Renames) -> str:
    """Their name for ours: the inverse of `renamed`, the pairs in reverse."""
    for pattern, theirs in _patterns(tuple(table), True):
        name = pattern.sub(theirs, name)
    return name


@cache
def _patterns(table: Renames, backward: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The pattern that each pair looks for and its replacement, in the order of use."""
    pairs = [(ours, theirs) for theirs, ours in reversed(table)] if backward else table
    return tuple((_pattern(old), _replacement(new)) for old, new in pairs)


def _pattern(side: str) -> re.Pattern[str]:
    start = "^" if side.startswith("^") else r"(?:^|(?<=\.))"
    return re.compile(start + re.escape(side.strip("^.")).replace(r"\*", r"(\d+)") + r"(?=\.|$)")


def _replacement(side: str) -> str:
    first, *rest = side.strip("^.").split("*")
    return first + "".join(rf"\g<{number}>{part}" for number, part in enumerate(rest, start=1))


def fuse(state: State, parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """A state in which tensors whose names hold each of the `parts` as one dotted part are joined along axis 0."""
    pattern, found, joined = _any_of(parts), dict[str, dict[str, str]](), dict(state)
    for name in state:
        if part := pattern.search(name):
            found.setdefault(pattern.sub(whole, name), {})[part[0]] = name
    for name, pieces in found.items():
        if pieces.keys() == set(parts):
            joined[name] = torch.cat([joined.pop(pieces[part]) for part in parts])
    return joined


def unfuse(state: State, parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """The inverse of `fuse`: equal pieces, as views."""
    pattern, apart = _any_of([whole]), dict[str, Tensor]()
    for name, tensor in state.items():
        pieces = dict(zip(parts, tensor.chunk(len(parts)), strict=True)) if pattern.search(name) else {"": tensor}
        apart |= {pattern.sub(part, name): piece for part, piece in pieces.items()}
    return apart


def _any_of(parts: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^.])(?:{'|'.join(parts)})(?![^.])")


def sizes(state: State, *needed: str) -> dict[str, torch.Size]:
    """Shapes by name. Raises ValueError that lists which of the `needed` names are not there."""
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(f"{len(missing)} keys missing ({some(missing)}); give a whole checkpoint")
    return {name: tensor.shape for name, tensor in state.items()}


def count_numbered(names: Iterable[str], pattern: str) -> int:
    """1 + the largest number that the pattern's group finds in the names: how many of something there are, else 0."""
    return max((1 + int(match[1]) for name in names if (match := re.match(pattern, name))), default=0)


def heads_of(width: int, known: Mapping[int, int]) -> int:
    """Attention heads of a published width. Raises ValueError for another."""
    if width not in known:
        raise ValueError(f"weights {width} wide do not tell their attention heads; pass heads, a divisor of {width}")
    return known[width]
