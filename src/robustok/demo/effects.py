"""What an eye would say of generated images under each decoder, and which of them came nearer to real ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.demo.compared import Compared
from robustok.demo.scores import unseen
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.precision_recall import nearness
from robustok.evaluation.scores.effects import ImageStatistics, compare, image_statistics
from robustok.evaluation.scores.metric_names import EFFECTS
from robustok.evaluation.scores.score import Score
from robustok.shapes import to_pixels

LOOKED_AT = 2_000  # generated images, and as many real ones
BATCH = 250


class Seen(NamedTuple):
    """What was found in the first generated images."""

    scores: list[Score]
    before: Tensor  # (b,) distance of each to the nearest real image, original decoder
    after: Tensor  # (b,) the same, decoder after post-training
    nearest: Tensor  # (b,) that real image, an index of the scored images
    space: str  # feature space of both, in which nothing was trained


def see(compared: Compared) -> Seen | None:
    """Compare what decoders named before, control and after make of the same tokens or latents with real images.

    Off the manifold is meant in a feature space that nothing was trained in. Other real images, of the training set,
    tell what is left where nothing is wrong. None where a demo trains in every space.
    """
    config, images = compared.config, compared.images
    spaces = unseen(config)
    if not spaces:
        return None
    count = min(LOOKED_AT, len(compared.drawn), len(images.scored), len(images.train))
    extract = extractor(spaces[-1])

    def photos(of: ImageSet) -> ImageStatistics:
        return image_statistics((to_pixels(of.images(part)) for part in torch.arange(count).split(BATCH)), extract)

    real, other = photos(images.scored), photos(images.train)
    made = {
        ("generated", name): image_statistics(decoded(model, compared.drawn[:count]), extract)
        for name, model in compared.decoders.items()
    }
    found = compare(real, other, made, seed=config.seed)
    about = {**compared.how, **extract.describe(), "held_out": True}
    scores = [
        score
        for effect in found.effects
        for score in _records(effect.values, effect.intervals, effect.decoder or "floor", count, about)
    ]
    for change in found.changes:
        ends = {"from": "before", "to": change.decoder, "tokens": "the same"}
        scores += _records(change.values, change.intervals, "difference", count, about | ends)
    before, after = (
        nearness(generated=made["generated", name].features, real=real.features) for name in ("before", "after")
    )
    return Seen(scores, before.distance, after.distance, after.nearest, extract.name)


def _records(
    values: Mapping[str, float], intervals: Mapping[str, Any], suffix: str, count: int, about: dict[str, Any]
) -> list[Score]:
    return [
        Score(metric=f"{metric}_{suffix}", value=values[name], interval=intervals[name], images=count, protocol=about)
        for name, metric in EFFECTS.items()
    ]
