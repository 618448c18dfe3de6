"""Who works on which rows of a batch: it is cut into micro-batches, and every micro-batch over the processes.

So micro-batch m of all processes together is micro-batch m of one process, and what is a statistic of a micro-batch
(batch norm, code entropies, the adaptive weight) is the same on any number of them. The other order, first over
processes and then over time, is what most trainers do; there a run on 8 GPUs is another run than on one. Each process
holds its own rows of the batch only, micro-batch after micro-batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustok.runtime.distributed import rank, world_size
from robustok.runtime.trees import mapped

AnyDraw = TypeVar("AnyDraw", bound=tuple[Any, ...])


class BatchRows(NamedTuple):
    """Some rows of a batch: those of one process, say."""

    own: Tensor  # (b,) their numbers
    of: int  # rows of the batch


@dataclass(frozen=True)
class MicroBatch:
    """One piece of a batch, and what this process does of it.

    Losses are means over a process' rows, and processes may have unequal numbers of rows (13 rows over 2 processes are
    6 and 7). Two factors put that right: `weight` within a micro-batch, `fraction` within the batch.
    """

    number: int  # 0, 1, ...
    start: int  # the first row, in the batch
    counts: tuple[int, ...]  # rows that each process does, in the order of the batch
    own: int  # which of them are this process' own
    batch: int  # rows of the whole batch

    @property
    def size(self) -> int:
        """Rows, over all processes."""
        return sum(self.counts)

    @property
    def rows(self) -> BatchRows:
        """This process' own, counted from the first of the micro-batch."""
        first = sum(self.counts[: self.own])
        return BatchRows(torch.arange(first, first + self.counts[self.own]), self.size)

    def drawn(self, draw: AnyDraw) -> AnyDraw:
        """This process' rows of what was drawn for all rows: a named tuple of tensors."""
        return type(draw)(*(values[self.rows.own] for values in draw))

    @property
    def last(self) -> bool:
        """True for the batch's last one."""
        return self.start + self.size == self.batch

    @property
    def weight(self) -> float:
        """Factor of a mean over this process' rows, so that the mean over processes is that over the micro-batch.

        1 where all have equally many rows.
        """
        return len(self.counts) * self.counts[self.own] / self.size

    @property
    def fraction(self) -> float:
        """Factor of a mean over this process' rows in the whole batch.

        The sum over micro-batches of fraction * loss, averaged over processes, is the mean over the batch: 1 / m for m
        equal micro-batches.
        """
        return self.size / self.batch * self.weight


def micro_batches_of(batch: int, count: int, own: int | None = None, processes: int | None = None) -> list[MicroBatch]:
    """A batch of so many rows in up to `count` micro-batches, each cut over the processes as evenly as it goes.

    `own` of `processes` is this process, if it is not said. Raises ValueError where a process would get nothing.
    """
    own, processes = rank() if own is None else own, world_size() if processes is None else processes
    size, micro_batches = math.ceil(batch / count), []
    for number, start in enumerate(range(0, batch, size)):
        rows = min(size, batch - start)
        if rows < processes:
            raise ValueError(
                f"a batch of {batch} in {count} micro-batches leaves one of {processes} processes without any row in "
                f"micro-batch {number + 1}; take a larger batch_size, fewer micro_batches, or fewer processes"
            )
        cuts = [rows * process // processes for process in range(processes + 1)]
        micro_batches.append(MicroBatch(number, start, tuple(b - a for a, b in pairwise(cuts)), own, batch))
    return micro_batches


def whole_batch(rows: int) -> MicroBatch:
    """A batch that one process works on in one piece."""
    return micro_batches_of(rows, 1, 0, 1)[0]


def micro_batches_here(rows: int, batch_size: int, count: int) -> list[MicroBatch]:
    """The micro-batches of a batch of which this process holds so many rows; alone it may be given any batch."""
    return micro_batches_of(rows if world_size() == 1 else batch_size, count)


def own_rows(micro_batches: Sequence[MicroBatch]) -> BatchRows:
    """The rows of the batch that are this process' own."""
    return BatchRows(torch.cat([micro.start + micro.rows.own for micro in micro_batches]), micro_batches[0].batch)


def split(batch: Any, micro_batches: Sequence[MicroBatch]) -> Iterator[tuple[Any, MicroBatch]]:
    """This process' rows of a batch, one micro-batch after the other.

    They are a tensor or a tuple, named tuple or dict of tensors that agree in the first axis.

        for piece, micro in split(batch, micro_batches_of(len(batch), config.micro_batches)):
            optimizer.backward(loss(piece), micro.fraction, last=micro.last)
    """
    lengths = set[int]()
    mapped(batch, lambda tensor: lengths.add(len(tensor)))
    if len(lengths) != 1:
        raise ValueError(f"the tensors of a batch have lengths {sorted(lengths)}; they must agree to be split")
    assert lengths == {sum(m.counts[m.own] for m in micro_batches)}, "a process holds its own rows of the batch only"
    start = 0
    for micro in micro_batches:
        stop = start + micro.counts[micro.own]
        yield mapped(batch, itemgetter(slice(start, stop))), micro
        start = stop
