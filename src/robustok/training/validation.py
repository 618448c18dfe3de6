"""Validation while a model trains: validations and previews to give to `train_tokenizer` and `train_generator`.

    validate = tokenizer_validation(validation, count=2000, pfid_images=500)
    train_tokenizer(config, images, folder, validate=validate, validate_every=1000)

They score the averaged weights by the functions of `robustok.evaluation`, on all processes together. What it costs is
set by the number of images: a tokenizer decodes `count` of them once and `pfid_images` 15 times, a generator samples
`count`. Distances of few images are too high (the bias falls as one over their number), and alike every time: they
tell which weights are better, not what a paper would report.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from robustok.data.images import ImageSet
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import FeatureSpace, extractor
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
OF_GENERATOR = ("gfid", "precision", "recall")
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
    extract = _extractor(features)

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
    reference: Reference,
    *,
    sampling: AnySampling,
    count: int = 1000,
    features: FeatureSpace = "lite0",
    seed: int = 0,
    batch_size: int = 125,
) -> Callable[[Any, int], list[Score]]:
    """A validation of generators: gFID, precision and recall of `count` samples, of every class equally many.

    The tokenizer decodes them. Sample i starts from the same random numbers every time.
    """
    if count < LEAST:
        raise ValueError(f"count is {count}; take {LEAST} samples or more, better a thousand")
    extract = _extractor(features)

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
        return _selected(scores, OF_GENERATOR)

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


def _extractor(features: FeatureSpace) -> Callable[[torch.device], Extractor]:
    """The extractor of a space for a device, built once, when it is first asked for."""
    return cache(lambda device: extractor(features, device))
