"""Functions that users give as feature spaces: what tells one from another, and the networks in them."""

import dis
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn

from robustok.runtime.checkpoint import fingerprint

LAMBDA = "<lambda>"
DEEP = 3  # functions within functions that are looked into


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function. All lambdas are called alike, so theirs holds a hash of what they do and with what.

    A partial function is named with its arguments.
    """
    if isinstance(function, partial):
        given = [_shown(value) for value in function.args]
        given += [f"{name}={_shown(value)}" for name, value in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    name = str(getattr(function, "__name__", type(function).__name__))
    return f"<lambda {_short(_contents(function))}>" if _is_lambda(function) else name


def network_of(function: Callable[..., Any]) -> nn.Module | None:
    """The network that a function is, or is a method of."""
    owner = function.__self__ if isinstance(function, MethodType) else function
    return owner if isinstance(owner, nn.Module) else None


def networks_in(function: Callable[..., Any], deep: int = DEEP) -> list[nn.Module]:
    """The network that a function is, or is a method of, and those that it calls by a name."""
    network = network_of(function)
    if network is not None:
        return [network]
    if isinstance(function, partial):
        return networks_in(function.func, deep)
    found = [value for _, value in _found(function)] if isinstance(function, FunctionType) and deep > 0 else []
    within = [networks_in(value, deep - 1) for value in found if isinstance(value, FunctionType | MethodType)]
    return [value for value in found if isinstance(value, nn.Module)] + [net for nets in within for net in nets]


def weights_of(network: nn.Module) -> str:
    """16 hex digits that change with any parameter or buffer."""
    return fingerprint({**dict(network.named_parameters()), **dict(network.named_buffers())})


def _is_lambda(function: object) -> TypeGuard[FunctionType]:
    return isinstance(function, FunctionType) and function.__name__ == LAMBDA


def _short(told: Any) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:8]


def _shown(value: Any) -> str:
    """An argument in the name of a function."""
    told = _told(value, DEEP)
    return told if isinstance(value, int | float | str) and len(told) < 20 else _short(told)


def _contents(function: FunctionType, deep: int = DEEP) -> Any:
    """What a lambda computes, what it takes if nothing is given, and what it finds by name."""
    names = {name: _told(value, deep - 1) for name, value in sorted(_found(function))}
    defaults = _told((function.__defaults__, *sorted((function.__kwdefaults__ or {}).items())), deep)
    return _code(function.__code__), defaults, names


def _found(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Variables that a function reads from where it was made, by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not yet set
            continue
    for name in {step.argval for step in dis.get_instructions(function.__code__) if step.opname == "LOAD_GLOBAL"}:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _code(code: CodeType) -> Any:
    """Instructions, constants and names, but not the file and the line that they are in."""
    constants = [_code(one) if isinstance(one, CodeType) else _told(one, DEEP) for one in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _told(value: Any, deep: int) -> str:
    """A value by what is in it, in words that are the same in every process.

    Its type where that is not known, and for lists and dictionaries, which may grow while features are made.
    """
    match value:
        case nn.Module():
            return f"{type(value).__name__} {weights_of(value)}"
        case Tensor():
            return fingerprint({"": value})
        case np.ndarray() if value.dtype.kind != "O":
            return f"{value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}"
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case tuple() if deep > 0:
            return f"[{', '.join(_told(one, deep - 1) for one in value)}]"
        case frozenset() if deep > 0:
            return f"{{{', '.join(sorted(_told(one, deep - 1) for one in value))}}}"
        case FunctionType() if deep > 0 and _is_lambda(value):
            return repr(_contents(value, deep - 1))
    return str(getattr(value, "__qualname__", type(value).__qualname__))
