"""Functions that users give as feature spaces: what tells one from another, and the networks in them."""

import inspect
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustok.runtime.checkpoint import fingerprint, short_hash

LAMBDA = "<lambda>"


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function; of a lambda, for all are called alike, with a hash of its code and of what that finds.

    A partial function is named with its arguments.
    """
    if isinstance(function, partial):
        given = [_told(value) for value in function.args]
        given += [f"{name}={_told(value)}" for name, value in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    name = str(getattr(function, "__name__", type(function).__name__))
    if name != LAMBDA or not isinstance(function, FunctionType):
        return name
    found = [(name, _told(value)) for name, value in sorted(_found_by(function).items())]
    told = _code(function.__code__), _told(function.__defaults__), found
    return f"<lambda {short_hash(repr(told).encode())[:8]}>"


def network_of(function: Callable[..., Any]) -> nn.Module | None:
    """The network that a function is, or is a method of."""
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else None


def networks_in(function: Callable[..., Any]) -> list[nn.Module]:
    """The network that a function is, or is a method of, and those that it calls by a name."""
    return [one for one in (network_of(function), *_found_by(function).values()) if isinstance(one, nn.Module)]


def weights_of(network: nn.Module) -> str:
    """16 hex digits that change with any parameter or buffer."""
    return fingerprint({**dict(network.named_parameters()), **dict(network.named_buffers())})


def _found_by(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function finds by name where it was made, but for Python's own."""
    function = inspect.unwrap(function)
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, FunctionType):
        return {}
    found = inspect.getclosurevars(function)
    return {**found.globals, **found.nonlocals}


def _code(code: CodeType) -> Any:
    """Instructions, constants and names, but not the file and the line that they are in."""
    constants = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_freevars


def _told(value: Any) -> str:
    """A value in words that are the same in every process: its type alone, where these are not known."""
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)
        case tuple():
            return f"({', '.join(map(_told, value))})"
        case nn.Module():
            return weights_of(value)
        case Tensor():
            return fingerprint({"": value})
        case np.ndarray():
            return short_hash(str(value.shape).encode(), value.tobytes())[:8]
    return str(getattr(value, "__qualname__", type(value).__qualname__))
