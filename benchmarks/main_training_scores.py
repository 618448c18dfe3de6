"""What every arm of the main-training study is measured by: images, feature spaces, and the scores themselves."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from main_training_arms import Size
from study_spaces import spaces
from torch import Tensor

from robustok.data.images import FashionMNIST, ImageSet
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.metrics.codebook_use import code_counts, perplexity
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.metrics.pfid import BLOCK, grid, perturbed_by_cells
from robustok.evaluation.metrics.precision_recall import precision_recall
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.seeding import derive
from robustok.shapes import Features, Labels, Pixels, Tokens, to_pixels
from robustok.tokenizer.perturbation import neighbors
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.objective import Objective
from robustok.training.pretrained import perceptual_network

ALONG = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the generator's training at which its images are scored
TUNED_IN = "lite0"  # the space in which the guidance is chosen
GUIDANCE = (1.0, 1.25, 1.5, 2.0)


@dataclass
class Notes:
    """Measurements in a file that holds every finished one."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = read_json(self.path) if self.path.exists() else {}

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` returns, now or in an earlier run."""
        if name not in self.values:
            began = time.process_time()
            self.values[name] = measure()
            self.values.setdefault("cpu_seconds", {})[name] = round(time.process_time() - began, 1)
            write_json(self.path, self.values)
            print(f"  {name}: {str(self.values[name])[:160]}", flush=True)
        return self.values[name]

    def add(self, name: str, value: Any) -> None:
        """Append to a list what is not in it yet."""
        values = self.values.setdefault(name, [])
        if value not in values:
            values.append(value)
            write_json(self.path, self.values)

    def look(self, name: str, step: int, value: Any) -> None:
        """Add a point to a curve."""
        self.values.setdefault(name, {})[str(step)] = value
        write_json(self.path, self.values)


class Judge:
    """The images, feature spaces and reference statistics that all arms are measured by."""

    def __init__(self, size: Size, folder: Path, others: dict[str, Extractor] | None = None):
        """`others`: the spaces to judge in, if not the study's own, which are trained once in `folder`."""
        self.size = size
        everything, scored = FashionMNIST("train", size.side), FashionMNIST("validation", size.side)
        self.validation = scored.subset(evenly(scored.labels, size.validation))
        held = evenly(everything.labels, size.held_out, last=True)
        rest = torch.ones(len(everything), dtype=torch.bool)
        rest[held] = False
        self.train, self.held = everything.subset(rest.nonzero().flatten()[: size.train]), everything.subset(held)
        self.spaces = others or spaces(self.train, self.held, folder / "spaces", size.classifier_steps)
        self.perceptual = perceptual_network(Objective().network, 3, None)
        self.chosen = evenly(self.validation.labels, size.perturbed)
        self._references: dict[str, dict[str, FeatureStats]] = {}

    def features(self, pixels: Pixels) -> dict[str, Features]:
        return {name: extract(pixels) for name, extract in self.spaces.items()}

    def reference(self, which: str) -> dict[str, FeatureStats]:
        """Statistics of all validation images, of the held-out ones, or of those that rFID and pFID take."""
        if which not in self._references:
            images = self.held if which == "held out" else self.validation
            rows = self.chosen if which == "chosen" else torch.arange(len(images))
            self._references[which] = statistics(self.features(pixels_of(images, rows)))
        return self._references[which]

    def distances(self, pixels: Pixels, which: str) -> dict[str, float]:
        made = statistics(self.features(pixels))
        return {name: frechet_distance(stats, made[name]) for name, stats in self.reference(which).items()}


def statistics(features: dict[str, Features]) -> dict[str, FeatureStats]:
    return {name: FeatureStats.of(values) for name, values in features.items()}


def evenly(labels: Labels, count: int, last: bool = False) -> Tensor:
    """Indices of `count` images, every class equally often: the first, or the last, of each."""
    classes = int(labels.max()) + 1
    each = count // classes
    rows = [(labels == label).nonzero().flatten() for label in range(classes)]
    return torch.cat([row[-each:] if last else row[:each] for row in rows]).sort().values


def pixels_of(images: ImageSet, rows: Tensor) -> Pixels:
    return torch.cat([to_pixels(images.images(part)) for part in rows.split(BLOCK)])


@torch.no_grad()
def decoded(tokenizer: Tokenizer, tokens: Tokens) -> Pixels:
    return torch.cat([to_pixels(tokenizer.decode(tokenizer.lookup(part))) for part in tokens.split(BLOCK)])


@torch.no_grad()
def tokens_of(tokenizer: Tokenizer, images: ImageSet, rows: Tensor) -> Tokens:
    return torch.cat([tokenizer.quantize(tokenizer.encode(images.images(part))).tokens for part in rows.split(BLOCK)])


@torch.no_grad()
def reconstruction_loss(tokenizer: Tokenizer, judge: Judge) -> dict[str, float]:
    """The terms of the objective without its adversarial one, on held-out images."""
    rows = evenly(judge.held.labels, judge.size.looked_at)
    images = judge.held.images(rows)
    output = tokenizer(images)
    levels = judge.perceptual.feature_maps(output)
    terms = {
        "l1": F.l1_loss(output, images),
        "l2": F.mse_loss(output, images),
        "perceptual": judge.perceptual(images, levels),
    }
    return {name: float(term) for name, term in terms.items()} | {"loss": float(sum(terms.values()))}


@torch.no_grad()
def nats(generator: AutoregressiveModel, tokens: Tokens, labels: Labels) -> float:
    """Mean -log probability of a token."""
    total = 0.0
    for part, label in zip(tokens.split(BLOCK), labels.split(BLOCK), strict=True):
        logits = generator(part, label).float().flatten(0, 1)
        total += float(F.cross_entropy(logits, part.flatten(), reduction="sum"))
    return total / tokens.numel()


def reconstruction(tokenizer: Tokenizer, judge: Judge) -> dict[str, Any]:
    """rFID and the cells of pFID on the same images, and how the codes are used."""
    tokens = tokens_of(tokenizer, judge.validation, judge.chosen)
    cells = grid(len(tokenizer.codebook))
    near = neighbors(tokenizer.codebook, max(cell.delta for cell in cells))
    blocks = [
        [noisy for _, noisy in perturbed_by_cells(part, near, cells, seed=0, block=block)]
        for block, part in enumerate(tokens.split(BLOCK))
    ]
    rfid = judge.distances(decoded(tokenizer, tokens), "chosen")
    scores = [
        {**cell._asdict(), "fd": judge.distances(decoded(tokenizer, torch.cat([b[i] for b in blocks])), "chosen")}
        for i, cell in enumerate(cells)
    ]
    return {
        "images": len(tokens),
        "rfid": rfid,
        "pfid": {name: math.fsum(score["fd"][name] for score in scores) / len(scores) for name in rfid},
        "cells": scores,
        "perplexity": perplexity(code_counts(tokens, len(tokenizer.codebook))),
    }


def sampled(folder: Path, step: int, guidance: float, count: int, purpose: str) -> Tokens:
    """Tokens of a generator at a step of its training, every class equally often; sampled once."""
    path = folder / "sampled" / f"{step}_{guidance:g}_{purpose}_{count}.pt"
    if not path.exists():
        generator = AutoregressiveModel.from_pretrained(folder / "along" / str(step))
        labels = torch.arange(count) % 10
        tokens = sample_tokens(generator, labels, Sampling(guidance=guidance), seed=derive(0, purpose), batch_size=500)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tokens.to(torch.int16), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return torch.load(path, weights_only=True).long()


def generation(tokenizer: Tokenizer, judge: Judge, folder: Path, notes: Notes) -> None:
    """Choose the guidance on held-out images; then gFID along training and at its end, precision and recall."""
    size = judge.size
    end = size.generator_steps

    def held_out_fd(guidance: float) -> dict[str, float]:
        tokens = sampled(folder, end, guidance, size.tuned_by, "tuning")
        return judge.distances(decoded(tokenizer, tokens), "held out")

    tried = {g: notes.once(f"held-out FD at guidance {g:g}", lambda g=g: held_out_fd(g)) for g in GUIDANCE}
    best = notes.once("guidance", lambda: min(tried, key=lambda g: tried[g][TUNED_IN]))
    for share in ALONG:
        step = math.ceil(share * end)
        notes.once(
            f"gfid at {step}",
            lambda step=step: judge.distances(
                decoded(tokenizer, sampled(folder, step, best, size.along, "course")), "validation"
            ),
        )
    pixels = decoded(tokenizer, sampled(folder, end, best, size.generated, "scored"))
    notes.once("gfid", lambda: judge.distances(pixels, "validation"))
    notes.once("precision_recall", lambda: fidelity_and_diversity(pixels, judge))


def fidelity_and_diversity(pixels: Pixels, judge: Judge) -> dict[str, Any]:
    """Precision and recall (k = 3) of as many generated as real images, every class equally often."""
    count = judge.size.compared
    real = judge.features(pixels_of(judge.validation, evenly(judge.validation.labels, count)))
    made = judge.features(pixels[:count])
    return {name: precision_recall(generated=made[name], real=real[name])._asdict() for name in real}
