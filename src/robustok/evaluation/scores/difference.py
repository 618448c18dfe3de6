"""Differences between two scores, and what they mean.

Two decoders of the same tokens, and two systems run with the same seeds, are compared pair by pair, so that what
both share cancels. Else the noise of either side adds up. What an interval over images leaves out is said in words:
training the same model once more moves FID 3.2 times as much as sampling from it once more, and a gap under 1.3 %
decides nothing (Dufour et al. 2026, arXiv 2606.20536).
"""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.scores.feature_stream import FeatureStream
from robustok.evaluation.scores.intervals import (
    Influences,
    Interval,
    influence,
    mean_interval,
    seeds_interval,
    two_samples_interval,
)
from robustok.evaluation.scores.metric_names import metric_named
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.runtime.configs import flat

UNDECIDED = 0.013  # fraction of a Frechet distance that one training more or less moves it by (arXiv 2606.20536)
OF_THE_SYSTEM = frozenset(  # entries of a protocol that say what was scored; compiled or not, samples are of one kind
    {"sampling", "sampled_by", "generated", "codebook_size"}
)


class Difference(NamedTuple):
    """A score after minus the score before."""

    before: float
    after: float
    interval: Interval  # 95 %, of after - before
    over: str  # what could have come out otherwise: "images" or "seeds"
    metric: str = "fd"
    paired: bool = False  # whether both were had from the same tokens or seeds, one by one

    @property
    def value(self) -> float:
        return self.after - self.before

    @property
    def within_noise(self) -> bool:
        """True where no difference at all would be compatible with what was seen."""
        return self.interval[0] <= 0 <= self.interval[1]

    @property
    def undecided(self) -> bool:
        """True where a Frechet distance of other images would differ, but one of other training seeds might not."""
        small = abs(self.value) < UNDECIDED * abs(self.before)
        return self.over == "images" and metric_named(self.metric).frechet and small and not self.within_noise

    def in_words(self) -> str:
        """One sentence."""
        relative = f" ({self.value / abs(self.before):+.1%})" if self.before else ""
        how = ", pair by pair" if self.paired else ""
        low, high = self.interval
        return (
            f"{self.before:.4g} to {self.after:.4g}{relative}: {self._verdict()}; "
            f"95 % interval of the difference over {self.over}{how}: {low:+.3g} to {high:+.3g}"
        )

    def _verdict(self) -> str:
        if self.value == 0 and not any(self.interval):  # of a decoder that was kept, against itself
            return "the same, image by image" if self.over == "images" else "the same, seed by seed"
        if self.within_noise:
            return "within the noise, so this decides nothing"
        direction, better = "lower" if self.value < 0 else "higher", metric_named(self.metric).better
        worth = f" and so {'better' if direction == better else 'worse'}" if better else ""
        if self.undecided:
            return (
                f"{direction}{worth} for these weights, but a gap under {UNDECIDED:.1%} decides nothing about how they "
                "were trained, for another training seed may undo it"
            )
        return f"{direction}{worth}, beyond the noise"


def paired_difference(
    before: FeatureStream, after: FeatureStream, reference: Reference, *, other_real: bool = False
) -> Difference:
    """Frechet distance of one decoder's images against another's, of the same tokens in the same order.

    Each image moves both distances, so what the tokens alone bring about cancels, and the interval is of the
    decoders only. `other_real`: the real images could have been others, too, as where they were looked at to choose
    `after`. Raises ValueError when the two streams cannot be of the same tokens.
    """
    if before.count != after.count or before.keep != after.keep:
        raise ValueError(
            f"{before.count} and {after.count} images cannot be paired one by one; "
            "decode the same tokens with both decoders and keep as many features of each"
        )
    for stream in (before, after):
        reference.check_space(stream.space)
    (first, one), (second, other) = (_apart(reference, s, s.count) for s in (before, after))
    change = second - first
    interval = mean_interval(change, other.b - one.b, before.count)
    if other_real:
        _, highest = mean_interval(change, other.a - one.a, reference.stats.count)
        error = math.hypot(interval[1] - change, highest - change)
        interval = change - error, change + error
    return Difference(first, second, interval, "images", "gfid", paired=True)


@lru_cache(maxsize=8)
def _apart(reference: Reference, stream: FeatureStream, count: int) -> tuple[float, Influences]:
    """Distance of a stream of `count` images from the reference, and what each sampled image adds to it."""
    influences = influence(reference.stats, stream.stats, reference.sample, stream.sample)
    return frechet_distance(reference.stats, stream.stats), influences


def seeds_difference(before: list[float], after: list[float], metric: str = "fd") -> Difference:
    """One score of several seeds, each run both ways. Raises ValueError for one seed or unequal numbers."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} seeds cannot be paired; run the same seeds both ways")
    mean, interval = seeds_interval([b - a for a, b in zip(before, after, strict=True)])
    first = sum(before) / len(before)
    return Difference(first, first + mean, interval, "seeds", metric, paired=True)


def score_difference(before: Sequence[Score], after: Sequence[Score]) -> Difference:
    """One metric of two systems, each run once or several times, by the sharpest comparison that the runs allow.

    The same seeds both ways are paired; other seeds are two samples (Welch 1947). Single runs leave the intervals over
    images, as of images drawn independently: wider than needed where both systems saw the same images. Runs that all
    have one value are one run: their seeds moved nothing. Raises ValueError where nothing tells the noise.
    """
    metric = before[0].metric
    one, other = (sorted(distinct(scores), key=lambda score: score.seeds) for scores in (before, after))
    values, other_values = ([score.value for score in scores] for scores in (one, other))
    if max(len(one), len(other)) >= 2:
        seeds = [score.seeds for score in one]
        if seeds == [score.seeds for score in other] and len(set(seeds)) == len(seeds):
            return seeds_difference(values, other_values, metric)
        interval = two_samples_interval(values, other_values)
        return Difference(_mean(values), _mean(other_values), interval, "seeds", metric)
    runs = (*one, *other)
    if any(score.interval is None for score in runs):
        raise ValueError(f"{metric} has no interval over images, so one run tells nothing of its noise; run two seeds")
    # The farther end, since the lower one of a distance stops at 0, the upper one of a fraction before 1.
    ends = [(score.value - score.interval[0], score.interval[1] - score.value) for score in runs if score.interval]
    error = math.hypot(*map(max, ends))
    change = other_values[0] - values[0]
    return Difference(values[0], other_values[0], (change - error, change + error), "images", metric)


def distinct(runs: Sequence[Score]) -> Sequence[Score]:
    """The runs; the first one alone if their scores are all the same."""
    return runs if len({score.value for score in runs}) > 1 else runs[:1]


class Unlike(NamedTuple):
    """An entry of two scores' protocols that differs."""

    name: str  # dotted, as in "reference.hash"
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.name} {self.first!r} once and {self.second!r} the other time"


def unlike(a: Score, b: Score, *, but: Collection[str] = OF_THE_SYSTEM) -> list[Unlike]:
    """Differences in how two scores of one metric were computed, the number of images first.

    Entries of the protocol named in `but` may differ: by default those that say what was scored, not how.
    """
    left, right = (
        {"number of images": s.images} | flat({k: v for k, v in s.protocol.items() if k not in but}) for s in (a, b)
    )
    names = {**left, **right}
    return [Unlike(n, left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
