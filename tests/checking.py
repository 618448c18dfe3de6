"""Checks of annotations in functions within functions, prepared once and not each time that such a function is defined.

jaxtyping's import hook decorates every function, and preparing its checks compiles three more. Where a function is
defined within another that is called a thousand times, that is nearly all the time that a test takes.
"""

import functools
import threading
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import jaxtyping

plain = jaxtyping.jaxtyped


class Checks(NamedTuple):
    """Of all functions that come of one `def`: their annotations, and a function that checks and then calls one."""

    annotations: dict[str, Any]
    checked: Callable[..., Any]
    waiting: threading.local  # which one, in each thread


KNOWN: dict[CodeType, Checks] = {}


def install() -> None:
    """For modules that the import hook decorates from now on."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(*given: Any, **how: Any) -> Any:
    """jaxtyping's decorator, but that functions of one `def` share their checks."""
    if given:
        return plain(*given, **how)

    def decorate(function: Any) -> Any:
        within = isinstance(function, FunctionType) and "<locals>" in function.__qualname__
        if not within or function.__defaults__ or function.__kwdefaults__:  # defaults may be others each time
            return plain(**how)(function)
        if jaxtyping.config.jaxtyping_disable:
            return function
        checks = KNOWN.get(function.__code__)
        if checks is None:
            checks = KNOWN[function.__code__] = _prepared(function, how)
        if not _same(checks.annotations, function.__annotations__):
            return plain(**how)(function)
        return _through(checks, function)

    return decorate


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal, or written alike: jaxtyping makes a class anew of every `Float[Tensor, "b n"]`."""
    return one == other or ("<locals>" not in repr(one) and repr(one) == repr(other))


def _prepared(function: FunctionType, how: dict[str, Any]) -> Checks:
    waiting = threading.local()

    def running(*args: Any, **named: Any) -> Any:
        return waiting.functions[-1](*args, **named)

    # jaxtyping reads annotations that are words among the globals of the function that it is given
    asked = FunctionType(running.__code__, function.__globals__, function.__name__, closure=running.__closure__)
    functools.update_wrapper(asked, function)
    checked = plain(**how)(asked)
    del asked.__wrapped__  # type: ignore[attr-defined]  # what the first of them holds need not stay
    return Checks(dict(function.__annotations__), checked, waiting)


def _through(checks: Checks, function: FunctionType) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        functions = checks.waiting.__dict__.setdefault("functions", [])
        functions.append(function)
        try:
            return checks.checked(*args, **named)
        finally:
            functions.pop()

    return call
