"""Training as its settings say, whatever the caller has told torch."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
KINDS = ("cpu", "cuda", "mps", "xpu")  # of devices that may have an autocast


def undisturbed(train: Callable[P, T]) -> Callable[P, T]:
    """Make a function that trains do so with gradients and in its own precision.

    Notebooks switch gradients off, autocast on, or to doubles for all that follows; a run's settings would not tell.
    """

    @functools.wraps(train)
    def as_told(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
            for kind in KINDS:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return train(*args, **kwargs)

    return as_told
