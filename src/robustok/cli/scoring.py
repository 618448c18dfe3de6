"""Spaces and references of `robustok evaluate` and `reference`, and their scores as text."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from robustok.cli.arguments import View
from robustok.cli.help import table
from robustok.cli.images import is_npz, is_statistics, scored_images
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.image_source import ImageSource
from robustok.evaluation.features.registry import extractor, published_weights
from robustok.evaluation.scores.fdr6 import IMAGENET_256
from robustok.evaluation.scores.feature_stream import KEPT
from robustok.evaluation.scores.image_scores import nearest_images
from robustok.evaluation.scores.reference import Reference, read_reference
from robustok.evaluation.scores.score import Score
from robustok.report.system_table import protocol_of
from robustok.runtime.logging import Progress
from robustok.runtime.pictures import sheet, write_png
from robustok.runtime.words import counted

PLACE = "{features}"  # in the name of a reference: where that of the feature space goes
COLUMNS, NEAREST = 10, 20  # of a picture of nearest training images, and generated images in it at most


def told(name: str, *, quiet: bool) -> Progress:
    """Progress of a piece of work, on stderr."""
    return Progress(name, 1, quiet=quiet, console=Console(stderr=True, highlight=False, soft_wrap=True))


def extractors_of(
    names: str | None,
    reference: str | None,
    device: torch.device,
    *,
    fdr: bool = False,
    dtype: str = "float32",
    compiled: bool = False,
) -> list[Extractor]:
    """Those named; else with `fdr` the six of FDr6, else that of the reference, where it is a file that has one.

    Raises ValueError for `fdr`, which is a mean over spaces that are known for ImageNet, where none of those is named,
    and where some of the six cannot be had: with all that are missing, and what to do about each.
    """
    usual = list(IMAGENET_256) if fdr else [usual_space(reference)]
    several = names.split(",") if names else usual
    if fdr and not {name.split(":")[0] for name in several} & IMAGENET_256.keys():
        raise ValueError(
            f"--fdr is a mean over {', '.join(IMAGENET_256)}, and --features names none of these; leave out --features "
            "to score in all six, or name some of them"
        )
    found: dict[str, Extractor] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(several):
        weights = published_weights(name)
        if missing and weights is not None and weights.located() is None:  # one download that failed is enough
            missing[name] = f"{weights.title} is not here; {weights.remedy()}"
            continue
        try:
            found[name] = extractor(name, device, dtype=dtype, compile="inductor" if compiled else None)
        except ValueError as error:
            if not fdr or names:
                raise
            missing[name] = str(error)
    if missing:
        told = "; ".join(f"{name}: {why}" for name, why in missing.items())
        others = f"; or score in those that are here: --features {','.join(found)}" if found else ""
        raise ValueError(f"{len(missing)} of the six spaces of FDr6 cannot be had: {told}{others}")
    return list(found.values())


def usual_space(reference: str | None) -> str:
    """The feature space to score in unless told: that of a file of statistics, else the embedded one."""
    if reference is None or PLACE in reference or not is_statistics(reference):
        return "lite0"
    return str(Reference.load(reference).space["features"]) if reference.endswith(".safetensors") else "inception"


def references_of(
    name: str,
    extractors: Sequence[Extractor],
    size: int,
    view: View,
    *,
    keep: int = KEPT,
    quiet: bool = True,
    split: Literal["train", "validation"] = "validation",
) -> list[Reference]:
    """The reference for each extractor, from images of that size or from a file of statistics.

    `{features}` in a file's name stands for that of the space, so that several spaces have a file each. `split` is the
    part of a set that has several.
    """
    with told("reference" if split == "validation" else "training images", quiet=quiet) as bar:
        files = {extract.name: name.replace(PLACE, extract.name) for extract in extractors}
        if all(is_statistics(file) for file in files.values()):
            return [
                read_reference(files[extract.name], extract, keep=keep, progress=bar.tell) for extract in extractors
            ]
        if PLACE in name:
            raise ValueError(f"{name} names no files of statistics; {PLACE} is for such, one of each feature space")
        images = scored_images(name, None if is_npz(name) else size, view.scored(), split=split)
        return [Reference.of(images, extract, keep=keep, progress=bar.tell) for extract in extractors]


def with_train(
    name: str, references: Sequence[Reference], extractors: Sequence[Extractor], size: int, view: View, *, quiet: bool
) -> list[Reference]:
    """The references, each with all of the images of that name, which a generator was trained on."""
    whole = references_of(name, extractors, size, view, keep=sys.maxsize, quiet=quiet, split="train")
    return [reference.with_train(train) for reference, train in zip(references, whole, strict=True)]


def write_nearest(path: Path, pixels: Tensor, train: Reference, images: ImageSource, extract: Extractor) -> None:
    """A picture of generated images and below each its nearest training image, those nearest to theirs first."""
    columns = min(COLUMNS, len(pixels))
    pixels = pixels[: len(pixels) // columns * columns]
    found = nearest_images(pixels, train, images, extract)
    order = found.distances.argsort()
    rows = zip(pixels[order].split(columns), found.pixels[order].split(columns), strict=True)
    write_png(path, sheet(torch.cat([row for pair in rows for row in pair]), columns))


def as_text(scores: Sequence[Score]) -> str:
    """The table, what it means, and how it was computed."""
    parts = [table((_name(score, scores), *_value(score)) for score in scores)]
    parts += [f"{_name(s, scores)}: {s.protocol['in_words']}" for s in scores if "in_words" in s.protocol]
    parts += dict.fromkeys(protocol_of(score) for score in scores if "reference" in score.protocol)
    return "\n\n".join(parts)


def _name(score: Score, scores: Sequence[Score]) -> str:
    """`pfid_cell, alpha 0.9, delta 8`: the metric, and what tells it from its like."""
    several = len({s.protocol["features"] for s in scores if "features" in s.protocol}) > 1
    parts: list[Any] = [score.protocol["features"]] if several and "features" in score.protocol else []
    parts += [f"{part} {score.protocol[part]}" for part in ("alpha", "delta", "strength") if part in score.protocol]
    return ", ".join([score.metric, *parts])


def _value(score: Score) -> tuple[str, str, str]:
    bounds = "" if score.interval is None else f"95 %: {score.interval[0]:.4g} to {score.interval[1]:.4g}"
    return f"{score.value:.4g}", counted(score.images, "image"), bounds
