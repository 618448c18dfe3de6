"""Spaces and references of `robustok evaluate` and `reference`, and their scores as text."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from robustok.cli.arguments import View
from robustok.cli.help import table
from robustok.cli.images import is_npz, is_statistics, scored_images
from robustok.cli.validation import usual_space
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.scores.fdr6 import IMAGENET_256, fdr
from robustok.evaluation.scores.metric_names import variant_of
from robustok.evaluation.scores.reference import Reference, read_reference
from robustok.evaluation.scores.score import Score
from robustok.report.system_table import protocol_of
from robustok.runtime.logging import Progress
from robustok.runtime.words import counted


@contextmanager
def told(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress of a piece of work, on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(name, 1, quiet=quiet, console=console) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        yield tell


def extractors_of(names: str | None, reference: str | None, device: torch.device, *, fdr: bool) -> list[Extractor]:
    """Those named; else that of the reference, where it is a file that has one; else the embedded one.

    Raises ValueError for `fdr`, which is a mean over spaces that are known for ImageNet, where none of those is named.
    """
    several = names.split(",") if names else [usual_space(reference)]
    if fdr and not {name.split(":")[0] for name in several} & IMAGENET_256.keys():
        raise ValueError(f"--fdr is a mean over feature spaces; name some: --features {','.join(IMAGENET_256)}")
    return [extractor(name, device) for name in dict.fromkeys(several)]


def references_of(
    name: str, extractors: Sequence[Extractor], size: int, view: View, *, keep: int, quiet: bool
) -> list[Reference]:
    """The reference for each extractor, from a file of statistics or from images of that size."""
    with told("reference", quiet=quiet) as tell:
        if is_statistics(name):
            return [read_reference(name, extract, keep=keep, progress=tell) for extract in extractors]
        images = scored_images(name, None if is_npz(name) else size, view.scored())
        return [Reference.of(images, extract, keep=keep, progress=tell) for extract in extractors]


def over_imagenet(scores: Sequence[Score]) -> list[Score]:
    """The mean of each decoder's distances over those of ImageNet at 256 pixels."""
    distances: dict[str, list[Score]] = {}
    for score in scores:
        metric, variant = variant_of(score.metric)
        if metric in ("fid", "gfid") and score.protocol["features"] in IMAGENET_256:
            distances.setdefault(variant, []).append(score)
    means = ((variant, fdr(found)) for variant, found in distances.items())
    return [replace(mean, metric=f"{mean.metric}_{variant}") if variant else mean for variant, mean in means]


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
