"""Where the time of a piece of work goes, by operator of torch; `speed.py --only operators` prints it."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from robustok.report.table import Column, Table

SHOWN = 8  # operators of each piece of work


def table(works: Iterable[tuple[str, Callable[[], Any]]]) -> Table:
    """Of each piece of work the operators that take most of the time, with their milliseconds and share of all."""
    rows = []
    for name, work in works:
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            work()
        spent = {event.key: event.self_cpu_time_total / 1e3 for event in watched.key_averages()}
        most = sorted(spent, key=lambda key: -spent[key])[:SHOWN]
        told = {key: spent.pop(key) for key in most}
        told |= {f"{len(spent)} others": sum(spent.values())}
        whole = sum(told.values())
        rows += [[name, key, f"{ms:,.1f}", f"{ms / whole:.0%}"] for key, ms in told.items()]
    return Table(columns=["of", Column("operator", left=True), "ms", "share"], rows=rows)
