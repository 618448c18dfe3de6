"""The state of a demo: seconds of every stage and scores, on disk, so that it can go on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from robustok.evaluation.scores.score import Score, scores_of_records
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import completed
from robustok.runtime.logging import clock, peak_rss_gib

STATE = "diary.json"


class RunState:
    """Runs stages, tells about them, and remembers their time and scores; `show` is called after each stage.

    Raises ValueError when the folder holds a demo with other settings, or its diary is damaged.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], quiet: bool = False, show: Callable[[], object] | None = None
    ):
        self.path, self.quiet, self.show = folder / STATE, quiet, show
        self.plan, self._pace = dict[str, float](), 1.0  # seconds stages will take, and what they took of it lately
        self.console = Console(highlight=False, soft_wrap=True)
        self.content: dict[str, Any] = {"settings": settings, "seconds": {}, "scores": {}, "peak_rss_gib": 0.0}
        if self.path.exists():
            self.content = _diary(self.path)
            if completed(self.content["settings"]) != settings:
                raise ValueError(
                    f"{folder} holds a demo with other settings or of an older version; choose another folder with "
                    "--out, or delete it"
                )

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        if not self.quiet:
            self.console.print(text, style=style, markup=False)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """A stage of the demo; its time adds up over stops and starts."""
        self.say(f"\n{title}", style="bold")
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
            self.content["peak_rss_gib"] = max(self.content["peak_rss_gib"], peak_rss_gib())
            write_json(self.path, self.content)
            self.say(f"{name}: {clock(seconds[name])}{self._left(name, time.monotonic() - began)}", style="dim")
        if self.show is not None:
            self.show()

    def _left(self, name: str, taken: float) -> str:
        """How long the stages after this one will take, at the pace of the latest ones."""
        names = list(self.plan)
        if name not in names:
            return ""
        self._pace = (self._pace + taken / max(self.plan[name], 1e-9)) / 2
        left = self._pace * sum(self.plan[later] for later in names[names.index(name) + 1 :])
        return f", about {clock(left)} to go" if left else ""

    def has(self, name: str) -> bool:
        """Whether scores of that name are there."""
        return name in self.content["scores"]

    def scores(self, name: str, compute: Callable[[], Sequence[Score]]) -> list[Score]:
        """Scores that are computed once; a demo that goes on reads them back."""
        kept = self.content["scores"]
        if name not in kept:
            kept[name] = [score.to_plain() for score in compute()]
            write_json(self.path, self.content)
        return [Score.from_plain(plain) for plain in kept[name]]

    def all_scores(self) -> list[Score]:
        """Every score so far, the stages' times, and the memory that was needed."""
        seconds = self.content["seconds"]
        costs = [
            *(("seconds", taken, {"stage": name}) for name, taken in seconds.items()),
            ("seconds_total", sum(seconds.values()), {}),
            ("peak_rss_gib", self.content["peak_rss_gib"], {}),
        ]
        plain = [score for group in self.content["scores"].values() for score in group]
        measured = [Score.from_plain(score) for score in plain]
        return measured + [Score(metric=name, value=value, images=0, protocol=how) for name, value, how in costs]


def _diary(path: Path) -> dict[str, Any]:
    """The content of a diary. Raises ValueError where anything of it is not as it was written."""
    content, remedy = read_json(path), "restore it, or choose another folder with --out"
    kinds = {"settings": dict, "seconds": dict, "scores": dict, "peak_rss_gib": int | float}
    if not isinstance(content, dict) or any(not isinstance(content.get(name), kinds[name]) for name in kinds):
        raise ValueError(f"{path} is no diary of a demo: wanted {', '.join(kinds)}; {remedy}")
    if not all(isinstance(taken, int | float) for taken in content["seconds"].values()):
        raise ValueError(f"{path} is no diary of a demo: its seconds are no numbers; {remedy}")
    for name, records in content["scores"].items():
        if not isinstance(records, list):
            raise ValueError(f"{path} is no diary of a demo: its scores of {name} are no list; {remedy}")
        scores_of_records(records, f"{path}, {name}")
    return content
