"""Ranks: the one file that knows torch.distributed. On one process every function does nothing.

`torchrun` (or the caller) initialises the process group; everything else only asks here.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """Whether this process writes the files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank is here."""
    if _active():
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """Average over all ranks, without gradient; the value itself when there is only one."""
    if not _active():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(value: Tensor) -> Tensor:
    """The values (b, ...) of all ranks in rank order, (world b, ...); every rank brings the same shape.

    Gradients flow: each rank receives the sum of what all ranks' losses ask of its part, so that after the
    usual averaging of parameter gradients the result is the gradient of the mean loss over ranks.
    """
    return _Gather.apply(value) if _active() else value


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
