"""Ranks: the one file that knows torch.distributed. On one process every function does nothing.

A command that may be started by torchrun does its work inside `processes`; everything else only asks here.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustok.runtime.words import TOLD

T = TypeVar("T")
STARTED_BY_TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # environment variables
TIMEOUT = "ROBUSTOK_TIMEOUT"  # environment variable: seconds to wait for the other processes
PATIENCE = 1800.0  # seconds, where it is not set
GRACE = 1.0  # seconds in which the main process may be the first to tell of a failure
BUCKET = 25 * 2**20  # bytes of gradients that travel together, as in DistributedDataParallel


@contextmanager
def processes() -> Iterator[None]:
    """Let the processes that torchrun started work together for the while; without torchrun nothing happens.

    With GPUs each process has one of its own, which "cuda" then stands for. Raises ValueError where there are fewer.
    An error on one process ends all of them; on all but one it carries the note `words.TOLD`. A process that is gone or
    does not answer for so many seconds as `ROBUSTOK_TIMEOUT` says is a RuntimeError.
    """
    if _active() or not os.environ.keys() >= STARTED_BY_TORCHRUN:
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    patience = timedelta(seconds=_patience())
    gpus, local_rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        if local_rank >= gpus:
            raise ValueError(
                f"torchrun started process {local_rank + 1} on a machine with {gpus} GPUs; "
                f"start it with --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local_rank)
    store, number, count = next(rendezvous("env://", timeout=patience))
    # torchrun keeps the store when it starts processes anew; what those before them left there would mislead.
    store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=patience)
    try:
        yield
        dist.barrier()  # nobody leaves before all are done, or the others' last exchange would break
    except Exception as error:
        told = _clear(error, patience)
        if not _first_to_fail(store, number, count):
            told.add_note(TOLD)
        elif number:
            told.add_note(f"process {number} of {count}")
        if told is error:
            raise
        raise told from error
    finally:
        dist.destroy_process_group()


def _patience() -> float:
    """Seconds to wait for the others."""
    text = os.environ.get(TIMEOUT, str(PATIENCE))
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ValueError(f"{TIMEOUT} is {text!r}; give a number of seconds above 0, for example 600")


def _clear(error: Exception, patience: timedelta) -> Exception:
    """The error, or where it says that the others are not there any more, one that says it in words."""
    ours = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    if not ours:
        return error
    return RuntimeError(
        f"another process is gone, or did not answer for {patience.total_seconds():g} s ({TIMEOUT} sets it); what was "
        "saved is whole: find out why it ended, then the same command goes on from the last save"
    )


def _first_to_fail(store: Any, number: int, count: int) -> bool:
    """True where no process has failed before this one; the main one goes first where all fail alike."""
    try:
        if number:
            time.sleep(GRACE)
        first = bool(store.add("failures", 1) == 1)
        until = time.monotonic() + 3 * GRACE
        while not number and store.add("failures", 0) < count and time.monotonic() < until:
            time.sleep(GRACE / 20)  # the store may live in this process: the others ask it too
    except RuntimeError:  # the store went down with its process
        return True
    return first


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """The number of processes that work together."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """True on the process that writes the files and prints."""
    return rank() == 0


def mean(value: Tensor) -> Tensor:
    """Average over all ranks; the value itself when there is only one. Gradients flow as in `gather`."""
    return _Exchange.apply(value, _mean, _mean) if _active() else value


def is_sharded(value: Tensor) -> bool:
    """True where FSDP cut the tensor over the ranks."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """A tensor that FSDP cut over the ranks, put together on every rank, which all call this; any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has whole, cut over the ranks as `like` is; as it is where `like` is not cut."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shard(module: nn.Module, units: Iterable[nn.Module], *, travel: torch.dtype | None, method: str) -> None:
    """Cut a module's weights over the ranks (FSDP2); each unit's are put together only while it computes.

    `travel` is the dtype in which the units' weights are put together (None: their own), `method` what is called of
    the module beside `forward`. Gradients are averaged in float32. Nothing happens on one process.
    """
    if not _active():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    # Inputs keep their dtype: autocast decides what is computed in bfloat16, and noise levels need their digits.
    policy = MixedPrecisionPolicy(param_dtype=travel, reduce_dtype=travel and torch.float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, method)


def gather_objects(value: T) -> list[T]:
    """On the main process the values of all, in rank order; elsewhere none. They travel pickled, among ourselves."""
    if not _active():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def from_main(make: Callable[[], T]) -> T:
    """The result of `make`, which the main process alone calls, on every process; likewise a user's error."""
    if not _active():
        return make()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = make()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def gather(value: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The values (b, ...) of all ranks one below the other in rank order; the value itself when there is one rank.

    `counts` are the rows b that each rank brings, all the same if it is None. Gradients flow: each rank receives
    the sum of what all ranks' losses ask of its part, so that after the usual averaging of parameter gradients the
    result is the gradient of the mean loss over ranks.
    """
    if not _active():
        return value
    rows = counts or [len(value)] * world_size()
    own = slice(sum(rows[: rank()]), sum(rows[: rank() + 1]))

    def joined(value: Tensor) -> Tensor:
        # Collectives want equal shapes: shorter parts travel with empty rows at their end.
        padded = value.new_zeros(max(rows), *value.shape[1:])
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    return _Exchange.apply(value, joined, lambda gradient: _sum(gradient)[own])


def in_places(value: Tensor, own: Tensor, of: int) -> Tensor:
    """A batch of `of` rows, to which each rank brings its `own`; as they are where there is one. No gradient flows."""
    if not _active():
        return value
    batch = torch.zeros(of, *value.shape[1:], dtype=value.dtype, device=value.device)
    batch[own.to(value.device)] = value.detach()
    dist.all_reduce(batch)
    return batch


class _Exchange(torch.autograd.Function):
    """An exchange between ranks, and the one that takes gradients back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return there(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def _sum(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _mean(value: Tensor) -> Tensor:
    return _sum(value) / world_size()


class AveragedGradients:
    """Gradients of some parameters, averaged over ranks in buckets while backward is still busy with the others.

    It does what DistributedDataParallel does, from hooks on the parameters instead of around a module's `forward`:
    a tokenizer's step calls several methods of a model, takes gradients on the way to its adaptive weight (which no
    hook sees) and may be given models with weights that a loss never meets. All of that a wrapped `forward` would
    have to be bent around; here models and steps are those of one process. The first step finds out in which order
    gradients come and which never do; from then on a bucket travels as soon as it is full, in the same order on all
    ranks. Parameters that are sharded average their gradients themselves and are left alone.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket: int = BUCKET) -> None:
        self.bucket = bucket
        self._order: list[nn.Parameter] = []  # of arrival, in the first step
        self._buckets: list[list[nn.Parameter]] = []
        self._place: dict[nn.Parameter, int] = {}  # bucket of a parameter
        self._missing: list[int] = []  # gradients that each bucket still waits for
        self._travelling: list[tuple[list[nn.Parameter], Tensor, Any]] = []
        self._last = False
        self.parameters = [p for p in parameters if not is_sharded(p)] if world_size() > 1 else []
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def expect(self, last: bool) -> None:
        """Say before each `backward` whether it is the last one of the step: only then do gradients travel."""
        self._last = last
        self._missing = [len(bucket) for bucket in self._buckets]

    def _arrived(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        if not self._last:
            return
        if parameter not in self._place:
            self._order.append(parameter)
            return
        self._missing[self._place[parameter]] -= 1
        while len(self._travelling) < len(self._buckets) and self._missing[len(self._travelling)] == 0:
            self._send(self._buckets[len(self._travelling)])

    def _send(self, bucket: list[nn.Parameter]) -> None:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([part.reshape(-1) for part in parts]).div_(world_size())
        self._travelling.append((bucket, flat, dist.all_reduce(flat, async_op=True)))

    def finish(self) -> None:
        """Wait until all gradients are the averages."""
        if not self.parameters:
            return
        for bucket in self._buckets[len(self._travelling) :]:
            self._send(bucket)
        if self._order:
            for bucket in self._packed(self._order):
                self._place |= dict.fromkeys(bucket, len(self._buckets))
                self._buckets.append(bucket)
                self._send(bucket)
        for bucket, flat, journey in self._travelling:
            journey.wait()
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view(parameter.shape))
        self._travelling, self._order, self._last = [], [], False

    def _packed(self, parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Parameters in buckets of about equal size, each of one dtype."""
        bucket: list[nn.Parameter] = []
        for parameter in parameters:
            full = sum(p.numel() * p.element_size() for p in bucket) >= self.bucket
            if bucket and (full or parameter.dtype != bucket[0].dtype):
                yield bucket
                bucket = []
            bucket.append(parameter)
        if bucket:
            yield bucket
