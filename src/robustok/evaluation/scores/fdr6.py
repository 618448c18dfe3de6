"""FDr: Frechet distances of several feature spaces on one scale, each over that of the validation set, and their mean.

A single space hides what it does not see, and can be trained against. In six spaces the mean is called FDr6
(arXiv 2604.28190). What others call MIND6 is MIND in the same six, one number each, of which no mean is published.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustok.evaluation.scores.metric_names import variant_of
from robustok.evaluation.scores.score import Score

IMAGENET_256 = {  # distance of ImageNet's validation images from the training images, at 256 pixels
    "inception": 1.68,
    "dinov2": 14.19,
    "clip": 5.60,
    "siglip2": 0.60,
    "mae": 0.04,
    "convnextv2": 56.87,
}


def fdr(distances: Sequence[Score], normalizers: Mapping[str, float] = IMAGENET_256) -> Score:
    """The mean ratio of Frechet distances of the same images, one a space, as the score `fdr6` (`fdr2` for two).

    A ratio of 1 is as far from the reference as other real images are. The default normalizers are those of ImageNet
    at 256 pixels; for other images give each space's distance between validation and training images, as `score_images`
    computes it. Raises ValueError for scores of no or one and the same space, of different metrics or numbers of
    images, and for a space without a normalizer above 0.
    """
    if not distances:
        raise ValueError("there is no distance to take a mean of; give one Frechet distance a feature space")
    by_space = {str(score.protocol.get("features")): score for score in distances}
    if len(by_space) < len(distances):
        raise ValueError(f"{len(distances)} distances are of {len(by_space)} spaces; give one of each space")
    first = distances[0]
    for name in ("metric", "images", "seeds"):
        if len({getattr(score, name) for score in distances}) > 1:
            found = ", ".join(f"{getattr(score, name)}" for score in distances)
            raise ValueError(f"the distances differ in {name}: {found}; score the same images in every space")
    for space in by_space:
        if space not in normalizers:
            raise ValueError(
                f"there is no normalizer for {space!r}, only for {', '.join(normalizers)}; give the Frechet distance "
                "of other real images from the same reference in that space"
            )
        if not normalizers[space] > 0:
            raise ValueError(f"the normalizer of {space!r} is {normalizers[space]}; a distance of images is above 0")
    ratio = {space: score.value / normalizers[space] for space, score in by_space.items()}
    return Score(
        metric=f"fdr{len(distances)}",
        value=math.fsum(ratio.values()) / len(ratio),
        images=first.images,
        seeds=first.seeds,
        protocol={
            "of": first.metric,
            "ratios": ratio,
            "normalisers": {space: normalizers[space] for space in ratio},
            "spaces": {space: dict(score.protocol) for space, score in by_space.items()},
        },
    )


def fdr_of(scores: Sequence[Score]) -> list[Score]:
    """The mean of each decoder's distances over those of ImageNet at 256 pixels: of all `fid` and `gfid` in its spaces.

    Distances in other spaces, the embedded ones, do not belong to it and are left out.
    """
    distances: dict[str, list[Score]] = {}
    for score in scores:
        metric, variant = variant_of(score.metric)
        if metric in ("fid", "gfid") and score.protocol["features"] in IMAGENET_256:
            distances.setdefault(variant, []).append(score)
    means = ((variant, fdr(found)) for variant, found in distances.items())
    return [replace(mean, metric=f"{mean.metric}_{variant}") if variant else mean for variant, mean in means]
