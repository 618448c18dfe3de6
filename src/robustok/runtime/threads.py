"""Threads beside other processes: where these keep cores busy, fewer threads of ours are faster than more.

A training step is thousands of small operations, after each of which all threads wait for the slowest, and that is the
one whose core a neighbor holds: on two cores beside one busy process, one thread was 2.8 times as fast as two.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import NamedTuple

import torch

VARIABLE = "OMP_NUM_THREADS"
STAT = Path("/proc/stat")
BUSY = (0, 2, 5, 6, 7)  # columns of a core's line: user, system, irq, softirq, steal; low priority is left out
WINDOW = 5.0  # seconds over which neighbors are counted
LEAST = 5  # steps of a window
SLOWER = 1.5  # times as long as at the beginning a step takes before threads are given up later on


class Reading(NamedTuple):
    """Seconds: on the clock, of this process on all cores, and for which the cores that it may use were busy."""

    clock: float
    own: float
    busy: float


def cores() -> int:
    """The cores that this process may use, shared with those that torchrun started beside it; at least 1."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def reading() -> Reading | None:
    """What the clocks say now; None on a system that does not count the time of its cores as Linux does."""
    if not STAT.is_file() or not hasattr(os, "sched_getaffinity"):
        return None
    ours, busy = {f"cpu{core}" for core in os.sched_getaffinity(0)}, 0
    for name, *columns in map(str.split, STAT.read_text().splitlines()):
        if name in ours:
            busy += sum(int(columns[column]) for column in BUSY)
    return Reading(time.monotonic(), time.process_time(), busy / os.sysconf("SC_CLK_TCK"))


class Threads:
    """The threads that torch computes with while a stage trains: as many as there were, or as others leave cores.

    Others are processes of ordinary priority. They are counted over the first seconds, and whenever steps take
    `SLOWER` times as long as they did; where they leave, their cores are taken again. The number of threads changes
    results in the last digits only. With one thread, and where `OMP_NUM_THREADS` is set, nothing is watched. As a
    context manager, so that the number is what it was afterwards; `after_step` is to be called after every step.
    """

    def __init__(self, read: Callable[[], Reading | None] = reading, available: int | None = None):
        self.most, self.cores, self._read = torch.get_num_threads(), available or cores(), read
        self._since = None if VARIABLE in os.environ or self.most == 1 else read()
        self._last, self._steps, self._usual = self._since, list[float](), 0.0

    def __enter__(self) -> "Threads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self.most)

    def after_step(self, say: Callable[[str], None]) -> None:
        """Choose the number of threads anew if it is time to, and tell of it."""
        if self._since is None or self._last is None or (now := self._read()) is None:
            return
        self._steps.append(now.clock - self._last.clock)
        self._last = now
        seconds = now.clock - self._since.clock
        if seconds < WINDOW or len(self._steps) < LEAST:
            return
        taken = max(0.0, (now.busy - self._since.busy) - (now.own - self._since.own)) / seconds
        step, first = median(self._steps), not self._usual
        self._usual, self._since, self._steps = min(self._usual or step, step), now, []
        before, wanted = torch.get_num_threads(), max(1, min(self.most, self.cores - round(taken)))
        if wanted == before or (wanted < before and not first and step < SLOWER * self._usual):
            return
        torch.set_num_threads(wanted)
        say(
            f"other processes keep {taken:.1f} of {self.cores} cores busy: {wanted} thread{'s' * (wanted > 1)} from "
            f"here on, not {before}; results change in the last digits only, {VARIABLE}={before} keeps them"
        )
