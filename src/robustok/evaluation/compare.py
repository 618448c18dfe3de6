"""What a difference between two scores means."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from robustok.evaluation.feature_stream import FeatureStream
from robustok.evaluation.fid import frechet_distance
from robustok.evaluation.intervals import Influence, Interval, influence, mean_interval, seeds_interval
from robustok.evaluation.reference import Reference
from robustok.evaluation.score import Score


class Difference(NamedTuple):
    """A score after minus the score before; below zero is better where it is a distance."""

    before: float
    after: float
    interval: Interval  # 95 %, of after - before
    over: str  # what could have come out otherwise: "images" or "seeds"

    @property
    def value(self) -> float:
        return self.after - self.before

    @property
    def within_noise(self) -> bool:
        """Whether no difference at all would be compatible with what was seen."""
        return self.interval[0] <= 0 <= self.interval[1]

    def in_words(self) -> str:
        """One sentence."""
        change = f"{self.before:.4g} to {self.after:.4g} ({self.value / self.before:+.1%})"
        bounds = f"95 % interval of the difference over {self.over}: {self.interval[0]:+.3g} to {self.interval[1]:+.3g}"
        if self.within_noise:
            return f"{change}: within the noise, so this decides nothing; {bounds}"
        return f"{change}: {'lower' if self.value < 0 else 'higher'}, beyond the noise; {bounds}"


def paired_difference(before: FeatureStream, after: FeatureStream, reference: Reference) -> Difference:
    """Frechet distance of one decoder's images against another's, of the same tokens in the same order.

    Each image moves both distances, so what the tokens alone bring about cancels, and the interval is of the
    decoders only. Raises ValueError when the two streams cannot be of the same tokens.
    """
    if before.count != after.count or before.keep != after.keep:
        raise ValueError(
            f"{before.count} and {after.count} images cannot be paired one by one; "
            "decode the same tokens with both decoders and keep as many features of each"
        )
    for stream in (before, after):
        reference.check_space(stream.space)
    (first, moved_first), (second, moved_second) = (_apart(reference, s, s.count) for s in (before, after))
    interval = mean_interval(second - first, moved_second - moved_first, before.count)
    return Difference(first, second, interval, "images")


@lru_cache(maxsize=8)
def _apart(reference: Reference, stream: FeatureStream, count: int) -> tuple[float, Influence]:
    """How far a stream of `count` images is from the reference, and what each sampled image adds to that."""
    moved = influence(reference.stats, stream.stats, reference.sample, stream.sample).b
    return frechet_distance(reference.stats, stream.stats), moved


def seeds_difference(before: list[float], after: list[float]) -> Difference:
    """One score of several seeds, each run both ways. Raises ValueError for one seed or unequal numbers."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} seeds cannot be paired; run the same seeds both ways")
    mean, interval = seeds_interval([b - a for a, b in zip(before, after, strict=True)])
    first = sum(before) / len(before)
    return Difference(first, first + mean, interval, "seeds")


def check_comparable(a: Score, b: Score) -> None:
    """Raises ValueError when two scores were not computed alike, naming the first thing that differs."""
    if a.metric != b.metric:
        raise ValueError(f"{a.metric} and {b.metric} are two metrics; compare a metric with itself")
    if a.images != b.images:
        raise ValueError(f"{a.metric} of {a.images} and of {b.images} images differ by their number alone")
    left, right = _flat(a.protocol), _flat(b.protocol)
    for name in {**left, **right}:
        if left.get(name) != right.get(name):
            raise ValueError(
                f"{a.metric} was computed with {name} {left.get(name)!r} once and {right.get(name)!r} the "
                "other time; compute both alike"
            )


def _flat(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"reference": {"count": 5}} as {"reference.count": 5}."""
    flat: dict[str, Any] = {}
    for name, value in protocol.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
