"""The scores of generated images, from their features and a reference."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from robustok.evaluation.feature_stream import SAMPLES, FeatureStream
from robustok.evaluation.fid import frechet_distance
from robustok.evaluation.inception_score import SPLIT
from robustok.evaluation.intervals import share_interval
from robustok.evaluation.kernel_distance import mmd
from robustok.evaluation.precision_recall import density_coverage, precision_recall
from robustok.evaluation.reference import Reference
from robustok.evaluation.score import Distance, Score
from robustok.evaluation.sliced_wasserstein import DIRECTIONS, mind
from robustok.runtime.seeding import stream as random_stream


def score_features(
    generated: FeatureStream,
    reference: Reference,
    *,
    metric: str = "gfid",
    suffix: str = "",
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
) -> list[Score]:
    """The Frechet distance of all images, called `metric`; with what the feature space has for it sFID and the
    Inception Score; of samples precision and recall, density and coverage, the kernel distance and MIND.

    Precision alone of these is a mean over generated images, and so has an interval; what the others would be with
    other images, only other seeds tell. `suffix` ends their names ("_before" makes "gfid_before"); `protocol` adds how
    the images were generated. What the reference has no sample for, and what takes more images than there are, is left
    out with a warning.
    """
    reference.check_space(generated.space)
    about = {**generated.space, "reference": reference.images, **(protocol or {})}
    distance = frechet_score(metric + suffix, generated, reference, about, seeds)
    values = [*_of_all(generated, reference), *_of_samples(generated, reference)]
    return [
        distance,
        *(
            Score(
                metric=f"{name}{suffix}",
                value=value,
                interval=share_interval(value, how["generated_sample"]) if name == "precision" else None,
                images=generated.stats.count,
                seeds=seeds,
                protocol={**about, **how},
            )
            for name, value, how in values
        ),
    ]


def frechet_score(
    metric: str,
    generated: FeatureStream | Reference,
    reference: Reference,
    protocol: Mapping[str, Any],
    seeds: tuple[int, ...] = (),
) -> Score:
    """The Frechet distance alone, with its interval."""
    protocol = {**protocol, "interval": "95 %, over generated images, the reference held fixed"}
    return Distance.between(reference, generated, paired=False).score(metric, protocol, seeds)


Value = tuple[str, float, dict[str, Any]]  # metric, value and how it was had


def _of_all(generated: FeatureStream, reference: Reference) -> Iterator[Value]:
    """What a space with spatial features and classes tells of all images."""
    if generated.spatial and reference.spatial:
        yield "sfid", frechet_distance(reference.spatial, generated.spatial), {"of": "spatial features"}
    if generated.classes:
        score = generated.classes.score()
        yield "inception_score", score.mean, {"splits": f"{SPLIT} consecutive images", "std": score.std}


def _of_samples(generated: FeatureStream, reference: Reference) -> Iterator[Value]:
    """What is told by images one by one."""
    one, other = generated.sample, reference.sample
    if not len(other):
        warnings.warn(
            "the reference has statistics only, so precision, recall, density, coverage, kernel distance and MIND are "
            "left out; make a reference from its images to have them",
            stacklevel=4,
        )
        return
    sampled = {"generated_sample": len(one), "reference_sample": len(other), "samples": SAMPLES}
    measures: list[tuple[str, Callable[[], Iterable[tuple[str, float]]], dict[str, Any]]] = [
        (
            "precision and recall",
            lambda: precision_recall(generated=one, real=other, k=3)._asdict().items(),
            {"k": 3, "balls": "closed"},
        ),
        (
            "density and coverage",
            lambda: density_coverage(generated=one, real=other, k=5)._asdict().items(),
            {"k": 5, "balls": "open"},
        ),
        (
            "the kernel distance",
            lambda: [("kid", mmd(generated=one, real=other))],
            {"kernel": "cubic", "estimate": "unbiased, of the whole samples"},
        ),
        (
            "MIND",
            lambda: [("mind", mind(generated=one, real=other, generator=random_stream(0, "MIND")))],
            {"directions": DIRECTIONS},
        ),
    ]
    missing: dict[str, list[str]] = {}  # why: what
    for names, measure, how in measures:
        try:
            for name, value in measure():
                yield name, value, {**sampled, **how}
        except ValueError as error:  # of images too few or too much alike, of which the Frechet distance is known
            missing.setdefault(str(error), []).append(names)
    if missing:
        left_out = "; ".join(f"{' and '.join(names)} left out, for {why}" for why, names in missing.items())
        warnings.warn(f"what these images tell is given, but {left_out}", stacklevel=4)
