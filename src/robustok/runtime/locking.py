"""One at a time, over processes that know nothing of each other: files to be made, folders that are trained in.

A lock is the operating system's (flock) on a file of its own, which is gone afterwards; it goes with the process that
holds it, so that one that was killed stops nobody. Where there are no such locks, work goes on without.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

from robustok.runtime.distributed import from_main
from robustok.runtime.places import CLAIM, home

P = ParamSpec("P")
T = TypeVar("T")
TRAINING = "training"  # what is claimed of a folder that is trained in
TRIES = 3  # to claim it: a process that ends takes its file away
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Claim a file to make for the while: False where another process or thread has it, unless we `wait` for it.

    The lock is on a neighbor of its own. Raises OSError where that cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where one process does the work
        yield True
        return
    claimed = path.with_name(path.name + CLAIM)
    claimed.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with claimed.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            except OSError:  # a network folder without locks: at worst something is made twice
                held = True
            if held and _is_there(claimed, lock.fileno()):  # else whoever had it took it away after we opened it
                try:
                    yield True
                finally:
                    claimed.unlink(missing_ok=True)
                return
        if not wait:
            yield False
            return


def _is_there(path: Path, opened: int) -> bool:
    """Tell whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Let nobody else train in the folder while the block runs. Raises ValueError where another process already does.

    Of the processes of one run the main one holds the lock. A block within one for the same folder adds nothing.
    """
    place = Path(folder).resolve()
    if place in _HELD.get():
        yield
        return
    with ExitStack() as stack:
        from_main(lambda: _hold(stack, place, folder))
        token = _HELD.set(_HELD.get() | {place})
        try:
            yield
        finally:
            _HELD.reset(token)


def _hold(stack: ExitStack, place: Path, folder: str | Path) -> None:
    if not place.exists():
        stack.callback(_remove_empty, place)  # after a refusal nothing is left
    for _ in range(TRIES):
        try:
            mine = stack.enter_context(claim(place / TRAINING))
        except OSError:  # no place to write to, as whoever writes there will say
            return
        if mine:
            return
    raise ValueError(f"another process trains in {folder}; wait until it has ended, or choose another folder")


def alone_in_its(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function that trains run `alone_in` the folder that is its argument `name`."""

    def decorate(train: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(train)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            given = inspect.signature(train).bind(*args, **kwargs)
            folder = given.arguments[name] = home(given.arguments[name])
            with alone_in(folder):
                return train(*given.args, **given.kwargs)

        return alone

    return decorate
