"""A run's words: numbers to `metrics.jsonl`, progress and memory to the person watching."""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console

from robustok.runtime.checkpoint import parse_json, write_bytes

RECENT = 60.0  # seconds whose rate tells how much time is left


class MetricsLog:
    """`metrics.jsonl` in a run folder: one line of JSON a step, `{"step": 100, "l1": 0.12, ...}`."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "metrics.jsonl"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row. Values that are not finite are left out: JSON has no NaN."""
        row = {"step": step} | {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far; a last line that was torn by a kill is left out."""
        rows = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []:
            with suppress(ValueError):
                rows.append(parse_json(line))
        return [row for row in rows if isinstance(row, dict) and "step" in row]

    def rewind(self, step: int) -> None:
        """Forget every row after `step`, and torn lines: the run goes on from there."""
        kept = [row for row in self.rows() if row["step"] <= step]
        if self.path.is_file():
            write_bytes(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def sync(self) -> None:
        """Force the rows to the disk, so that a save never outlives its log."""
        if self.path.is_file():
            with self.path.open("a") as file:
                os.fsync(file.fileno())


class Progress:
    """Progress of a piece of work: name, bar, images/s, time left and the latest values.

    Both are at the rate of the last minute, which other processes may have slowed, or left to this one again. A live
    bar on a terminal; elsewhere a plain line at each tenth of the way, and once a minute. As a context manager:

        with Progress("tokenizer", total=1000, images_per_step=64) as progress:
            progress.update(step + 1, {"l1": 0.1})
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        images_per_step: int = 1,
        start: int = 0,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self.name, self.total, self.start, self.images_per_step = name, total, start, images_per_step
        self.console, self.quiet = console or Console(highlight=False, soft_wrap=True), quiet
        self._began = self._spoke = time.monotonic()
        self._recent = deque([(self._began, start)])  # times and what was done then, the first a minute ago
        self._tenth = 10 * start // max(total, 1)
        self._bar: rich.progress.Progress | None = None
        if self.console.is_terminal and not quiet:
            self._bar = rich.progress.Progress(
                "[bold]{task.description}",
                rich.progress.BarColumn(bar_width=24),
                rich.progress.MofNCompleteColumn(),
                "{task.fields[text]}",
                console=self.console,
            )
            self._task = self._bar.add_task(name, total=total, completed=start, text="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def rate(self, done: int) -> float:
        """Images a second since the start."""
        return (done - self.start) * self.images_per_step / max(time.monotonic() - self._began, 1e-9)

    def update(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Show that `done` of the total are finished."""
        if self.quiet:
            return
        now = time.monotonic()
        while len(self._recent) > 1 and now - self._recent[1][0] >= RECENT:
            self._recent.popleft()
        since, former = self._recent[0]
        self._recent.append((now, done))
        each = (now - since) / max(done - former, 1)
        pace = f"{self.images_per_step / max(each, 1e-9):.4g} images/s, {clock(each * (self.total - done))} left"
        text = f"{pace}  {in_words(values or {})}".rstrip()
        tenth = 10 * done // max(self.total, 1)
        if self._bar:
            self._bar.update(self._task, completed=done, total=self.total, text=text)
        elif tenth > self._tenth or now - self._spoke > 60:
            self._tenth, self._spoke = tenth, now
            self.console.print(f"{self.name}: {done}/{self.total}, {text}", markup=False)

    def tell(self, done: int, total: int) -> None:
        """Show that `done` are finished of so many as turn out to be to do."""
        self.total = total
        self.update(done)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.console.print(f"{self.name}: {text}", markup=False)


def in_words(values: Mapping[str, float]) -> str:
    """`l1 0.1234 psnr 21.5`: values in four digits."""
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def clock(seconds: float) -> str:
    """Seconds as a person reads them: `12 s`, `3:05 min`, `1:02:03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def peak_rss_gib() -> float:
    """The most memory this process has held at once, in GiB (resident set, children not counted)."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; ru_maxrss would start from the parent's memory there
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
