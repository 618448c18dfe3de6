"""Files that the main process alone writes while it trains, some in the background, and what follows when it cannot."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from robustok.runtime.distributed import is_main, whole
from robustok.runtime.trees import mapped


class Writer:
    """Does the main process's writing, at once (`now`) or in a thread (`later`); on other processes it does nothing.

    A failure is not raised where it happens: there the other processes would go on, and wait for the main one in vain.
    It is kept until all of them ask (`raise_if`), at a place of their choosing, and nothing more is written after it.
    At most one piece of work is under way in the background; the process does not exit before it is done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._under_way: Future[None] | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()  # waits

    @property
    def failed(self) -> bool:
        """True where something could not be written, as far as is known."""
        if self._under_way is not None and self._under_way.done():
            self.wait()
        return self._error is not None

    def now(self, work: Callable[[], None]) -> None:
        """Do it."""
        if is_main() and not self.failed:
            try:
                work()
            except (OSError, ValueError) as error:
                self._error = error

    def later(self, work: Callable[[], None]) -> None:
        """Have it done while training goes on, after what is still under way."""
        if is_main():
            self.wait()
            if not self.failed:
                self._under_way = self._thread.submit(work)

    def wait(self) -> None:
        """Let what is under way come to its end."""
        if self._under_way is not None:
            self._error = self._error or self._under_way.exception()  # type: ignore[assignment]
            self._under_way = None

    def raise_if(self, failed: bool) -> None:
        """`failed` is what all processes agreed on: the main one raises its error, the others exit without a word."""
        if self._error is not None:
            raise self._error
        if failed:
            raise SystemExit(1)


def snapshot(state: Any) -> Any:
    """A copy on the CPU of nested dicts, lists and tuples of tensors, which may then change; None on other processes.

    Every process calls it, for tensors that FSDP cut over them are put together, one after the other.
    """

    def copied(tensor: Tensor) -> Tensor | None:
        tensor = whole(tensor.detach())
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) if is_main() else None

    return mapped(state, copied)
