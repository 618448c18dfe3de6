"""Validation while a model trains: validations and previews to give to `train_tokenizer` and `train_generator`.

    validate = tokenizer_validation(validation, count=2000, pfid_images=500)
    train_tokenizer(config, images, folder, validate=validate, validate_every=1000)

They score the averaged weights by the functions of `robustok.evaluation`, on all processes together. What it costs is
set by the number of images: a tokenizer decodes `count` of them once and `pfid_images` 15 times, a generator samples
`count`. Distances of few images are too high (the bias falls as one over their number), and alike every time: they
tell which weights are better, not what a paper would report.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch

from robustok.data.images import ImageSet
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import FeatureSpace, FeatureSpaces, extractors
from robustok.evaluation.scores.fdr6 import IMAGENET_256, fdr_of
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.generate import AnySampling
from robustok.generators.sampling import balanced_labels
from robustok.runtime.seeding import spread
from robustok.training.previews import Picture
from robustok.training.shared_sampling import sample_together

OF_TOKENIZER = ("rfid", "rfid_pfid_images", "pfid", "psnr")  # of all scores, those that are logged
OF_GENERATOR = ("gfid", "precision", "recall", "mind")
STEPS_FILE = "steps_to_gfid.json"  # of a generator's folder: records by `steps_to`
LEAST = 6  # samples, so that each has the neighbors that precision, density and the like ask for


def tokenizer_validation(
    images: ImageSet,
    *,
    count: int = 2000,
    pfid_images: int = 500,
    features: FeatureSpace = "lite0",
    seed: int = 0,
    batch_size: int = 125,
) -> Callable[[Any, int], list[Score]]:
    """A validation of tokenizers: rFID, pFID and PSNR of up to `count` of the images, that nothing is trained on.

    pFID is of `pfid_images` of those, of which there is an rFID, too. All are spread over the set, and the same
    every time.
    """
    if not 2 <= pfid_images <= count:
        raise ValueError(f"pfid_images is {pfid_images} of {count} images; a distance needs 2 or more, better hundreds")
    count = min(count, len(images))
    some = images.subset(spread(count, len(images)))
    extract = _extractors(features)

    def validate(tokenizer: Any, done: int) -> list[Score]:
        scores = score_tokenizer(
            tokenizer,
            some,
            extract(tokenizer.device),
            pfid_images=min(pfid_images, count),
            seed=seed,
            batch_size=batch_size,
        )
        return _selected(scores, OF_TOKENIZER)

    return validate


def generator_validation(
    tokenizer: Any,
    reference: Reference | Sequence[Reference],
    *,
    sampling: AnySampling,
    count: int = 1000,
    features: FeatureSpaces = "lite0",
    fdr: bool = False,
    seed: int = 0,
    batch_size: int = 125,
) -> Callable[[Any, int], list[Score]]:
    """A validation of generators: gFID, precision, recall and MIND of `count` samples, of every class equally many.

    The tokenizer decodes them. Sample i starts from the same random numbers every time. With several feature spaces
    there is one reference for each, in the same order; the log then names the scores of all but the first by their
    space: gfid, gfid_clip. `fdr` adds the mean that FDr6 is, of those spaces that belong to it, of which there must be
    one.
    """
    if count < LEAST:
        raise ValueError(f"count is {count}; take {LEAST} samples or more, better a thousand")
    several = features if isinstance(features, Sequence) and not isinstance(features, str) else [features]
    if fdr and not {str(getattr(space, "name", space)).split(":")[0] for space in several} & IMAGENET_256.keys():
        raise ValueError(f"FDr is a mean over {', '.join(IMAGENET_256)}; name some of these as features")
    extract = _extractors(features)

    def validate(generator: Any, done: int) -> list[Score]:
        scores = score_generator(
            generator,
            tokenizer,
            reference,
            balanced_labels(count, generator.null_class),
            extract(tokenizer.device),
            sampling=sampling,
            seed=seed,
            batch_size=batch_size,
        )
        means = fdr_of(scores) if fdr else []
        return [*_selected(scores, OF_GENERATOR[:1]), *means, *_selected(scores, OF_GENERATOR[1:])]

    return validate


def sample_preview(
    tokenizer: Any, *, sampling: AnySampling, count: int = 20, seed: int = 0
) -> Callable[[Any], Mapping[str, Picture]]:
    """A preview of generators: `count` samples as one picture, from the same random numbers every time."""

    def preview(generator: Any) -> dict[str, Picture]:
        labels = balanced_labels(count, generator.null_class)
        return {"samples": torch.cat(list(decoded(tokenizer, sample_together(generator, labels, sampling, seed))))}

    return preview


def _selected(scores: Sequence[Score], names: Sequence[str]) -> list[Score]:
    return [score for name in names for score in scores if score.metric == name]


def _extractors(features: FeatureSpaces) -> Callable[[torch.device], list[Extractor]]:
    """The extractors of some spaces for a device, built once, when they are first asked for."""
    return cache(lambda device: extractors(features, device))


class Reached(NamedTuple):
    """The first validation that found a value, or less."""

    step: int
    value: float  # that was found
    before: int  # step of the validation before it, 0 if there was none: somewhere between the two it was reached


def first_at_or_below(rows: Iterable[Mapping[str, float]], value: float) -> Reached | None:
    """The first of a log's rows in which gFID is at `value` or below; None where it never is.

    It is a step at which was looked, not one in between by interpolation: as RAEv2 reports epochs until gFID is 2
    (arXiv 2605.18324), the number is as fine as validations are frequent. Values that are not finite reach nothing.
    """
    before = 0
    for row in sorted((row for row in rows if "gfid" in row), key=lambda row: row["step"]):
        if math.isfinite(row["gfid"]) and row["gfid"] <= value:
            return Reached(int(row["step"]), row["gfid"], before)
        before = int(row["step"])
    return None


def steps_to(
    reached: Reached, value: float, gfid: Score, *, batch_size: int, images: int, every: int
) -> tuple[Score, Score]:
    """Steps and epochs until gFID was first found at `value` or below, as scores; `gfid` is one of that training's.

    Training takes `batch_size` of `images` training images a step, and was validated every so many steps, which moves
    the number up by as much at most, and so is part of the protocol.
    """
    about = {name: value for name, value in gfid.protocol.items() if name != "interval"}
    about |= {"of": gfid.metric, "at_or_below": value, "validated_every": every}
    epochs = Score(
        metric="epochs_to_gfid",
        value=reached.step * batch_size / images,
        images=gfid.images,
        seeds=gfid.seeds,
        protocol=about,
    )
    told = about | {"batch_size": batch_size}
    return replace(epochs, metric="steps_to_gfid", value=float(reached.step), protocol=told), epochs
