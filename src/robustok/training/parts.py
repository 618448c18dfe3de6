"""Who works on which rows of a batch: first the batch is cut into parts, then every part over the processes.

So part p of all processes together is part p of one process, and what is a statistic of a part is the same on any
number of them. Each process holds its own rows of the batch only, part after part.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustok.runtime.distributed import rank, world_size

AnyDraw = TypeVar("AnyDraw", bound=tuple[Any, ...])


class BatchRows(NamedTuple):
    """Some rows of a batch: those of one process, say."""

    own: Tensor  # (b,) their numbers
    of: int  # rows of the batch


@dataclass(frozen=True)
class Part:
    """One part of a batch, and what this process does of it."""

    number: int  # 0, 1, ...
    start: int  # the part's first row in the batch
    counts: tuple[int, ...]  # rows that each process does, in the order of the part
    own: int  # which of them are this process' own
    batch: int  # rows of the whole batch

    @property
    def size(self) -> int:
        """Rows of the part, over all processes."""
        return sum(self.counts)

    @property
    def rows(self) -> BatchRows:
        """This process' own, counted from the part's first."""
        first = sum(self.counts[: self.own])
        return BatchRows(torch.arange(first, first + self.counts[self.own]), self.size)

    def drawn(self, draw: AnyDraw) -> AnyDraw:
        """This process' rows of what was drawn for all rows of the part: a named tuple of tensors."""
        return type(draw)(*(values[self.rows.own] for values in draw))

    @property
    def last(self) -> bool:
        """Whether it is the batch's last part."""
        return self.start + self.size == self.batch

    @property
    def weight(self) -> float:
        """What a mean over this process' rows counts, so that the mean over processes is that over the part."""
        return len(self.counts) * self.counts[self.own] / self.size

    @property
    def share(self) -> float:
        """What it counts in the whole batch: the sum over parts of share * loss, averaged over processes."""
        return self.size / self.batch * self.weight


def parts_of(batch: int, accumulate: int, own: int | None = None, processes: int | None = None) -> list[Part]:
    """A batch of so many rows in up to `accumulate` parts, each cut over the processes as evenly as it goes.

    `own` of `processes` is this process, if it is not said. Raises ValueError where a process would get nothing.
    """
    own, processes = rank() if own is None else own, world_size() if processes is None else processes
    size, parts = math.ceil(batch / accumulate), []
    for number, start in enumerate(range(0, batch, size)):
        rows = min(size, batch - start)
        if rows < processes:
            raise ValueError(
                f"a batch of {batch} in {accumulate} parts leaves one of {processes} processes without any in "
                f"part {number + 1}; take a larger batch_size, a lower accumulate, or fewer processes"
            )
        cuts = [rows * process // processes for process in range(processes + 1)]
        parts.append(Part(number, start, tuple(b - a for a, b in pairwise(cuts)), own, batch))
    return parts


def alone(rows: int) -> Part:
    """A batch that one process works on in one piece."""
    return parts_of(rows, 1, 0, 1)[0]


def parts_here(rows: int, batch_size: int, accumulate: int) -> list[Part]:
    """The parts of a batch of which this process holds so many rows; alone it may be given any batch."""
    return parts_of(rows if world_size() == 1 else batch_size, accumulate)


def own_rows(parts: Sequence[Part]) -> BatchRows:
    """The rows of the batch that are this process' own."""
    return BatchRows(torch.cat([part.start + part.rows.own for part in parts]), parts[0].batch)


def split(batch: Any, parts: Sequence[Part]) -> Iterator[tuple[Any, Part]]:
    """This process' rows of a batch, part by part.

    They are a tensor or a tuple, named tuple or dict of tensors that agree in the first axis.

        for piece, part in split(batch, parts_of(len(batch), config.accumulate)):
            update.backward(loss(piece), part.share, last=part.last)
    """
    lengths = {len(tensor) for tensor in _tensors(batch)}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of a batch have lengths {sorted(lengths)}; they must agree to be split")
    assert lengths == {sum(part.counts[part.own] for part in parts)}, "a process holds its own rows of the batch only"
    start = 0
    for part in parts:
        stop = start + part.counts[part.own]
        yield _slice(batch, start, stop), part
        start = stop


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
        return
    for value in batch.values() if isinstance(batch, dict) else batch:
        yield from _tensors(value)


def _slice(batch: Any, start: int, stop: int) -> Any:
    match batch:
        case Tensor():
            return batch[start:stop]
        case dict():
            return {name: _slice(value, start, stop) for name, value in batch.items()}
    values = [_slice(value, start, stop) for value in batch]
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
