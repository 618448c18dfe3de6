"""Systems and what they scored, read from several `scores.json`.

A system is what a name stands for: that given for the file, else the one that `robustok evaluate` wrote into the
records, else where the file lies. Files of one name are runs of one system. The decoders of a demo, whose scores
end in _before, _control and _after, are three systems: "demo:before" and so on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from robustok.evaluation.scores.difference import Difference, distinct, score_difference, unlike
from robustok.evaluation.scores.intervals import Interval, seeds_interval
from robustok.evaluation.scores.metric_names import METRICS, variant_of
from robustok.evaluation.scores.score import Score, scores_in

SCORES, CHANGE = "scores.json", "_difference"


class ScoreColumn(NamedTuple):
    """A score that is compared: a metric, in one space of features where it has any."""

    metric: str
    features: str  # or ""


class Estimate(NamedTuple):
    """A score of one run, or the mean of several."""

    value: float
    interval: Interval | None  # 95 %, over images for one run, over seeds for several
    runs: int
    images: int  # of each run


class Paired(NamedTuple):
    """A difference that was measured on the same tokens."""

    before: str  # a system
    column: ScoreColumn
    interval: Interval


@dataclass
class System:
    """A name and all its runs."""

    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: dict[ScoreColumn, list[Score]] = field(default_factory=dict)  # of each run
    paired: list[Paired] = field(default_factory=list)  # against other systems

    def add(self, score: Score) -> None:
        """Take in the score of a run, unless it is there. Raises ValueError if the runs are of two systems."""
        self.about = {**score.system, **self.about}
        runs = self.scores.setdefault(column_of(score, score.metric), [])
        for entry in unlike(runs[0], score, but={"generated"}) if runs else ():
            raise ValueError(
                f"two runs of {self.name} had {entry} for {score.metric}, so they are two systems; name their "
                "files apart: NAME=FILE"
            )
        if score not in runs:
            runs.append(score)

    def estimate(self, column: ScoreColumn) -> Estimate | None:
        """The mean over its runs; None if it has none."""
        runs = distinct(self.scores.get(column, ()))
        if not runs:
            return None
        if len(runs) == 1:
            return Estimate(runs[0].value, runs[0].interval, 1, runs[0].images)
        return Estimate(*seeds_interval([score.value for score in runs]), len(runs), runs[0].images)

    def against(self, other: "System", column: ScoreColumn) -> Difference:
        """The difference to another; both have the column. Raises ValueError where nothing tells the noise."""
        before, after = distinct(other.scores[column]), distinct(self.scores[column])
        interval = self._paired_with(other, column)
        if interval is None or len(before) > 1 or len(after) > 1:
            return score_difference(before, after)
        return Difference(before[0].value, after[0].value, interval, "images", column.metric, paired=True)

    def _paired_with(self, other: "System", column: ScoreColumn) -> Interval | None:
        """The interval of the difference on the same tokens, if it was measured, in either direction."""
        columns = (column, ScoreColumn(column.metric, ""))
        for pair in self.paired:
            if pair.before == other.name and pair.column in columns:
                return pair.interval
        for pair in other.paired:
            if pair.before == self.name and pair.column in columns:
                return -pair.interval[1], -pair.interval[0]
        return None


def read_systems(sources: Sequence[tuple[str, Path]], metrics: Sequence[str] | None = None) -> list[System]:
    """The systems in files or run folders, each with the name given or "", and their scores by some metrics.

    Without metrics, by the usual ones. Raises ValueError for what cannot be read, for a metric of which a run has
    several values, and for a file or folder that has none of the metrics.
    """
    metrics = metrics or tuple(METRICS)
    systems: dict[str, System] = {}
    for name, path in sources:
        scores = read_scores(path)
        alone = "before" if any(variant_of(score.metric)[1] for score in scores) else ""  # a demo's: the decoder before
        seen, taken = set(), False
        for score in scores:
            base = name or str(score.system.get("name", "")) or _place(path)
            metric, arm = variant_of(score.metric.removesuffix(CHANGE))
            if metric not in metrics:
                continue
            taken = True
            if score.metric.endswith(CHANGE):
                before, after = (_system(systems, base, str(score.protocol.get(end))) for end in ("from", "to"))
                if score.interval:
                    after.paired.append(Paired(before.name, column_of(score, metric), score.interval))
                continue
            column = column_of(score, metric)
            if (arm, column) in seen:
                raise ValueError(f"{path} has several values of {metric}; --metrics takes those with one each")
            seen.add((arm, column))
            _system(systems, base, arm or alone).add(replace(score, metric=metric))
        if not taken:
            raise ValueError(f"there is no score of {', '.join(metrics)} in {path}; leave it out, or ask for others")
    return list(systems.values())


def columns_of(systems: Sequence[System], metrics: Sequence[str] | None = None) -> list[ScoreColumn]:
    """The columns that any system has, in the order of the metrics. Raises ValueError for one that none has."""
    found = dict.fromkeys(column for system in systems for column in system.scores)
    there = {column.metric for column in found}
    for metric in metrics or ():
        if metric not in there:
            raise ValueError(f"no system has a score {metric!r}; there is {', '.join(sorted(there))}")
    return [column for metric in metrics or METRICS for column in found if column.metric == metric]


def read_scores(path: Path) -> list[Score]:
    """The scores in a file, or in a run's folder. Raises ValueError."""
    return scores_in(path / SCORES if path.is_dir() else path)


def column_of(score: Score, metric: str) -> ScoreColumn:
    return ScoreColumn(metric, str(score.protocol.get("features", "")))


def _system(systems: dict[str, System], base: str, arm: str) -> System:
    """The system of that name, with no runs if it is new."""
    name = f"{base}:{arm}" if arm else base
    return systems.setdefault(name, System(name))


def _place(path: Path) -> str:
    """`runs/a` for runs/a and for runs/a/scores.json, `runs/b` for runs/b.json."""
    return str(path.parent if path.name == SCORES else path if path.is_dir() else path.with_suffix(""))
