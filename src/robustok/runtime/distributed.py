"""Ranks: the one file that knows torch.distributed. On one process every function does nothing.

A command that may be started by torchrun does its work inside `processes`; everything else only asks here.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
STARTED_BY_TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # environment variables


@contextmanager
def processes() -> Iterator[None]:
    """The processes that torchrun started work together for the while; without torchrun nothing happens.

    With GPUs each process has one of its own, which "cuda" then stands for. Raises ValueError where there are fewer.
    """
    if _active() or not os.environ.keys() >= STARTED_BY_TORCHRUN:
        yield
        return
    gpus, local_rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        if local_rank >= gpus:
            raise ValueError(
                f"torchrun started process {local_rank + 1} on a machine with {gpus} GPUs; "
                f"start it with --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield
        dist.barrier()  # nobody leaves before all are done, or the others' last exchange would break
    finally:
        dist.destroy_process_group()


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


def whole(value: Tensor) -> Tensor:
    """A tensor that FSDP cut over the ranks, put together on every rank, which all call this; any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gather_objects(value: T) -> list[T]:
    """On the main process the values of all, in rank order; elsewhere none. They travel pickled, among ourselves."""
    if not _active():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns on the main process, which alone calls it, on every process; likewise a ValueError."""
    if not _active():
        return make()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = make()
        except ValueError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


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
