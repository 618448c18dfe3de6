"""Scores of sets of images, each with the protocol that it was computed by: from their features and a reference.

Several processes (`robustok.runtime.distributed.processes`) share the images; all of them get the scores, which are
those of one process, see `robustok.evaluation.scores.tokenizer_scores`.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.image_source import ImageSource, Progress, check_set, images_at, pixels_of
from robustok.evaluation.features.registry import FeatureSpace, FeatureSpaces, extractor, extractors
from robustok.evaluation.metrics.checks import Generated, Real
from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.metrics.inception_score import SPLIT
from robustok.evaluation.metrics.kernel_distance import kernel_distance
from robustok.evaluation.metrics.memorization import CELLS, COMPONENTS, auth_percent, data_copying, nearest
from robustok.evaluation.metrics.precision_recall import density_coverage, precision_recall
from robustok.evaluation.metrics.sliced_wasserstein import DIRECTIONS, mind
from robustok.evaluation.metrics.vendi import vendi_score
from robustok.evaluation.scores.feature_stream import KEPT, SAMPLES, FeatureStream, extracted, feature_stream, stream_of
from robustok.evaluation.scores.intervals import Interval, fraction_interval
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Distance, Score
from robustok.runtime.distributed import from_main
from robustok.runtime.seeding import stream as random_stream
from robustok.shapes import Pixels


def score_images(
    images: ImageSource,
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    metric: str = "fd_floor",
    progress: Progress | None = None,
) -> Score:
    """Frechet distance of one set of images to the reference; for other real images, it is the floor."""
    stream = stream_of(images, features, progress=progress)
    reference.check_space(stream.space)
    protocol = {**stream.space, "reference": reference.images, "generated": images.describe()}
    return from_main(lambda: frechet_score(metric, stream, reference, protocol))


def score_image_set(
    images: ImageSource,
    reference: Reference | Sequence[Reference],
    features: FeatureSpaces = "lite0",
    *,
    metric: str = "fid",
    keep: int = KEPT,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores by `score_features` of a set of images, of which `keep` at most are the sample.

    With several feature spaces there is one reference for each, in the same order.
    """
    check_set(images)
    about = {"generated": images.describe()}
    scores: list[Score] = []
    for extract, real in with_references(features, reference):
        stream = stream_of(images, extract, keep=keep, progress=progress)
        scores += from_main(partial(score_features, stream, real, metric=metric, protocol=about))
    return scores


def score_pixels(
    generated: Iterable[Tensor],
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    metric: str = "gfid",
    suffix: str = "",
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
    keep: int = KEPT,
) -> list[Score]:
    """Scores by `score_features` of batches of uint8 (b 3 h w). Several processes each go through all batches."""
    stream = feature_stream(generated, features, keep=keep)
    how: dict[str, Any] = {"metric": metric, "suffix": suffix, "seeds": seeds, "protocol": protocol}
    return from_main(lambda: score_features(stream, reference, **how))


class NearestImages(NamedTuple):
    """Of each generated image the nearest training image."""

    pixels: Pixels  # (b 3 h w), of the training images
    indices: Int[Tensor, " b"]  # in their set
    distances: Float64[Tensor, " b"]  # between the features


def nearest_images(
    generated: Pixels, train: Reference, images: ImageSource, features: FeatureSpace = "lite0"
) -> NearestImages:
    """The nearest training image beside each generated one, by the distance of features: does the generator copy?

    `train` is the reference of `images`, of all of them, as `Reference.with_train` asks for. Raises ValueError where it
    is of other images, or of another feature space.
    """
    extract = extractor(features)
    train.check_space(extract.describe())
    if len(train.sample) != len(images) or train.images != images.describe():
        raise ValueError(f"the training images are {images.describe()}, and the reference is of {train.images}")
    own = extracted(extract, generated).features.cpu()
    found = nearest(own, train.sample)
    distances = (own.double() - train.sample[found].double()).norm(dim=1)
    return NearestImages(pixels_of(images_at(images, found)), found, distances)


def with_references(
    features: FeatureSpaces, reference: Reference | Sequence[Reference], device: torch.device | str = "cpu"
) -> list[tuple[Extractor, Reference]]:
    """Each extractor and its reference. Raises ValueError where they are not as many, or of other spaces."""
    spaces = extractors(features, device)
    references = [reference] if isinstance(reference, Reference) else list(reference)
    if len(spaces) != len(references):
        raise ValueError(f"there are {len(spaces)} feature spaces and {len(references)} references; give one for each")
    for extract, real in zip(spaces, references, strict=True):
        real.check_space(extract.describe())
    return list(zip(spaces, references, strict=True))


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
    Inception Score; of samples precision and recall, density and coverage, the kernel distance, MIND and Vendi score.

    Of a reference `with_train` also AuthPct, of the held-out images, too, and C_T: does the generator copy? Precision
    and AuthPct are means over images, and so have an interval; what the others would be with other images, only other
    seeds tell. `suffix` ends their names ("_before" makes "gfid_before"); `protocol` adds how
    the images were generated. What the reference has no sample for, and what takes more images than there are, is left
    out with a warning.
    """
    reference.check_space(generated.space)
    about = {**generated.space, "reference": reference.images, **(protocol or {})}
    distance = frechet_score(metric + suffix, generated, reference, about, seeds)
    values = [*_of_all(generated, reference), *_of_samples(generated, reference)]
    return [distance] + [
        Score(
            metric=f"{name}{suffix}",
            value=value,
            interval=_interval(name, value, how),
            images=generated.stats.count,
            seeds=seeds,
            protocol={**about, **how},
        )
        for name, value, how in values
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
    """Scores of all images, in a space with spatial features and classes."""
    if generated.spatial and reference.spatial:
        yield "sfid", frechet_distance(reference.spatial, generated.spatial), {"of": "spatial features"}
    if generated.classes:
        score = generated.classes.score()
        yield "inception_score", score.mean, {"splits": f"{SPLIT} consecutive images", "std": score.std}


def _interval(name: str, value: float, how: Mapping[str, Any]) -> Interval | None:
    """That of a mean over images, each of which counts or does not."""
    whole, sample = {
        "precision": (1, "generated_sample"),
        "authpct": (100, "generated_sample"),
        "authpct_held_out": (100, "reference_sample"),
    }.get(name, (0, ""))
    if not whole:
        return None
    low, high = fraction_interval(value / whole, how[sample])
    return whole * low, whole * high


Measures = dict[str, tuple[Callable[[], dict[str, float]], dict[str, Any]]]  # what, how to have it, its protocol


def _of_samples(generated: FeatureStream, reference: Reference) -> Iterator[Value]:
    """Scores of the samples, image by image."""
    one, other = generated.sample, reference.sample
    if not len(other):
        warnings.warn(
            "the reference has statistics only, so precision, recall, density, coverage, kernel distance and MIND are "
            "left out; make a reference from its images to have them",
            stacklevel=4,
        )
    sampled = {"generated_sample": len(one), "reference_sample": len(other), "samples": SAMPLES}
    measures = _of_both(one, other) if len(other) else {}
    measures["the Vendi score"] = lambda: {"vendi": vendi_score(one)}, {"kernel": "cosine", "order": 1}
    if reference.train is not None:
        measures |= _of_memory(one, reference, reference.train)
    missing: dict[str, list[str]] = {}  # why: what
    for names, (measure, how) in measures.items():
        try:
            for name, value in measure().items():
                yield name, value, {**sampled, **how}
        except ValueError as error:  # of images too few or too much alike, of which the Frechet distance is known
            missing.setdefault(str(error), []).append(names)
    if missing:
        left_out = "; ".join(f"{' and '.join(names)} left out, for {why}" for why, names in missing.items())
        warnings.warn(f"what these images tell is given, but {left_out}", stacklevel=4)


def _of_both(one: Generated, other: Real) -> Measures:
    """What two samples tell of each other."""
    both = {"generated": one, "real": other}
    return {
        "precision and recall": (lambda: precision_recall(**both, k=3)._asdict(), {"k": 3, "balls": "closed"}),
        "density and coverage": (lambda: density_coverage(**both, k=5)._asdict(), {"k": 5, "balls": "open"}),
        "the kernel distance": (
            lambda: {"kid": kernel_distance(**both)},
            {"kernel": "cubic", "estimate": "unbiased, of the whole samples"},
        ),
        "MIND": (
            lambda: {"mind": mind(generated=one, real=other, generator=random_stream(0, "MIND"))},
            {"directions": DIRECTIONS},
        ),
    }


def _of_memory(one: Generated, reference: Reference, train: Reference) -> Measures:
    """What a sample and held-out images tell of the images that the generator was trained on."""
    other, known = reference.sample, train.sample
    about = {"train": train.images}
    held_out = len(other) > 0 and reference.images.get("hash") != train.images.get("hash")

    def copying() -> dict[str, float]:
        if not held_out:
            raise ValueError("C_T compares with held-out images; give a reference of such, not of the training images")
        return {"c_t": data_copying(generated=one, held_out=other, train=known, generator=random_stream(0, "C_T"))}

    def authentic() -> dict[str, float]:
        beside = {"authpct_held_out": auth_percent(generated=other, train=known)} if held_out else {}
        return {"authpct": auth_percent(generated=one, train=known)} | beside

    return {"AuthPct": (authentic, about), "C_T": (copying, about | {"cells": CELLS, "components": COMPONENTS})}
