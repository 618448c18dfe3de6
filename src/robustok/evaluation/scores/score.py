"""A score: one number that says how it was computed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.scores.feature_stream import FeatureStream
from robustok.evaluation.scores.intervals import Influence, Interval, influence, mean_interval
from robustok.evaluation.scores.reference import Reference
from robustok.runtime.checkpoint import read_json
from robustok.runtime.words import reason


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number, and what it was computed with."""

    metric: str  # for example "rfid"
    value: float
    interval: Interval | None = None  # 95 %, over the images that could have been drawn
    images: int  # how many were scored
    seeds: tuple[int, ...] = ()  # of the random numbers in it; empty when there are none
    protocol: Mapping[str, Any]  # extractor, reference and every other choice that moves the value
    system: Mapping[str, Any] = field(default_factory=dict)  # what was scored, see `of_system`

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} came out as {self.value}; look at the images that were scored")

    def to_plain(self) -> dict[str, Any]:
        """The score as JSON values, a record of `scores.json`."""
        return {
            "metric": self.metric,
            "value": self.value,
            "interval": list(self.interval) if self.interval else None,
            "images": self.images,
            "seeds": list(self.seeds),
            "protocol": dict(self.protocol),
        } | ({"system": dict(self.system)} if self.system else {})

    @classmethod
    def from_plain(cls, plain: Any) -> "Score":
        """Read what `to_plain` gave. Raises ValueError for anything else."""
        fault = fault_of(plain)
        if fault:
            raise ValueError(f"{str(plain)[:60]} is no record of a score: {fault}")
        interval = plain["interval"]
        return cls(
            metric=plain["metric"],
            value=float(plain["value"]),
            interval=interval and (float(interval[0]), float(interval[1])),
            images=int(plain["images"]),
            seeds=tuple(map(int, plain["seeds"])),
            protocol=dict(plain["protocol"]),
            system=dict(plain.get("system", {})),
        )


def fault_of(record: Any) -> str | None:
    """What is wrong with a record of `scores.json`, the first thing of all; None where it is whole."""
    if not isinstance(record, Mapping):
        return f"it is a {type(record).__name__}; wanted {', '.join(FIELDS)}"
    if missing := [name for name in FIELDS if name not in record]:
        return f"it has no {', no '.join(missing)}; wanted {', '.join(FIELDS)}"
    for name, (fits, wanted) in (FIELDS | {"system": FIELDS["protocol"]}).items():
        if name in record and not fits(record[name]):
            return f"its {name} is {record[name]!r:.60}; wanted {wanted}"
    return None


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number larger than any float
        return False


def _whole(value: Any) -> bool:
    return _number(value) and value == int(value)


def _ends(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_number, value)) and value[0] <= value[1]


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of a record: what it must be, and in words
    "metric": (lambda value: isinstance(value, str), "the name of a metric"),
    "value": (_number, "a finite number"),
    "interval": (_ends, "null, or two finite numbers, the lower one first"),
    "images": (lambda value: _whole(value) and value >= 0, "a whole number"),
    "seeds": (lambda value: isinstance(value, list | tuple) and all(map(_whole, value)), "a list of whole numbers"),
    "protocol": (lambda value: isinstance(value, Mapping), "an object of names and values"),
}


def scores_in(file: Path) -> list[Score]:
    """The scores in a file. Raises ValueError that names the record that is none."""
    records = read_json(file)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{file} holds no list of scores; give what robustok evaluate --out or robustok demo wrote")
    return scores_of_records(records, str(file))


def scores_of_records(records: Sequence[Any], file: str) -> list[Score]:
    """The scores that a `file` tells. Raises ValueError that names the record that is none."""
    scores = []
    for number, record in enumerate(records):
        try:
            scores.append(Score.from_plain(record))
        except ValueError as error:
            raise ValueError(f"{file}: record {number}, {reason(error)}; restore the file or write it anew") from error
    return scores


class Distance(NamedTuple):
    """A Frechet distance and what each sampled image adds to it."""

    value: float
    influence: Influence
    images: int

    @classmethod
    def between(cls, real: Reference | FeatureStream, other: Reference | FeatureStream, *, paired: bool) -> "Distance":
        """`paired`: both are of the same images, one by one, which are drawn together; else real ones are fixed."""
        influences = influence(real.stats, other.stats, real.sample, other.sample)
        value = frechet_distance(real.stats, other.stats)
        return cls(value, influences.a + influences.b if paired else influences.b, other.stats.count)

    def score(self, metric: str, protocol: Mapping[str, Any], seeds: tuple[int, ...] = ()) -> Score:
        """With its interval, where at least two images tell of it."""
        interval = mean_interval(self.value, self.influence, self.images) if len(self.influence) >= 2 else None
        return Score(
            metric=metric,
            value=self.value,
            interval=interval and (max(0.0, interval[0]), interval[1]),
            images=self.images,
            seeds=seeds,
            protocol=protocol,
        )


def of_system(
    scores: Sequence[Score], *, name: str = "", tokenizer: object = None, generator: object = None
) -> list[Score]:
    """The scores, each saying what was scored, as far as it is known.

    {"name": "demo", "latent": "discrete", "tokens": 64, "codebook_size": 1024,
     "parameters": {"tokenizer": 1_200_000, "generator": 3_000_000}}
    """
    system: dict[str, Any] = {"name": name} if name else {}
    if tokenizer is not None:
        codebook = getattr(tokenizer, "codebook", None)  # which makes a tokenizer discrete
        system["latent"] = "continuous" if codebook is None else "discrete"
        if (tokens := getattr(tokenizer, "tokens_per_image", None)) is not None:
            system["tokens"] = int(tokens)
        if codebook is not None:
            system["codebook_size"] = len(codebook)
    models = {part: m for part, m in (("tokenizer", tokenizer), ("generator", generator)) if isinstance(m, nn.Module)}
    if models:
        system["parameters"] = {part: sum(p.numel() for p in model.parameters()) for part, model in models.items()}
    return [replace(score, system=system) for score in scores]
