"""`robustok sample`, `evaluate`, `reference` and `report`."""

import io
import json
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustok.api import load_generator, load_tokenizer
from robustok.cli.images import device_of, images_of, size_of
from robustok.cli.options import Command, table
from robustok.data.images import ImageSet
from robustok.demo.pictures import write_grid
from robustok.evaluation.evaluate import Score, decoded, score_generator, score_images, score_tokenizer
from robustok.evaluation.features import extractor
from robustok.evaluation.reference import Reference
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.report import write_report
from robustok.runtime.checkpoint import write_bytes, write_json
from robustok.runtime.logging import Progress

GRID = 400  # images in the grid, at most


def sampling_preset(name: str | None = None) -> Sampling:
    """How tokens are drawn unless settings say otherwise: from the generator's own distribution."""
    return Sampling()


def sample(command: Command) -> None:
    """A grid, an npz and, if asked for, a PNG of each image."""
    config, device = command.over(sampling_preset()), device_of(command.device)
    generator, tokenizer = load_generator(command.generator).to(device), load_tokenizer(command.tokenizer).to(device)
    classes = command.labels or range(generator.no_label)
    labels = torch.tensor([classes[i % len(classes)] for i in range(command.count)])
    with Progress("sampling", len(labels), quiet=command.quiet) as progress:
        tokens = sample_tokens(generator, labels, config, seed=command.seed, progress=progress.update)
    pixels = torch.cat(list(decoded(tokenizer, tokens)))
    columns = len(classes) if len(classes) <= 20 else math.isqrt(min(len(pixels), GRID))
    write_grid(command.out, "grid", "", "", pixels[:GRID], group="overview", columns=min(columns, len(pixels)))
    arrays = io.BytesIO()
    images = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    np.savez(arrays, images, labels.numpy())
    write_bytes(command.out / "samples.npz", arrays.getvalue())
    if command.png:
        for number, image in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            write_bytes(command.out / "images" / f"{number:06d}.png", data.getvalue())
    if not command.quiet:
        print(f"grid: {command.out / 'grid.png'}\nimages: {command.out / 'samples.npz'}")


def evaluate(command: Command) -> None:
    """A table of scores, or their records."""
    sampling = command.over(sampling_preset())
    with Progress("scoring", 1, quiet=command.quiet or command.json) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        scores = _scores(command, sampling, tell)
    records = [score.to_plain() for score in scores]
    if command.out:
        write_json(command.out, records)
    if command.json:
        print(json.dumps(records, indent=2))
    else:
        print(table((_name(score), _value(score)) for score in scores))


def _scores(command: Command, sampling: Sampling, tell: Callable[[int, int], None]) -> list[Score]:
    """What can be said of what was given. Raises ValueError where that is not enough, or too much."""
    device = device_of(command.device)
    match [name for name in ("generator", "tokenizer", "images", "reference") if getattr(command, name)]:
        case ["tokenizer", "images"]:
            tokenizer = load_tokenizer(command.tokenizer).to(device)
            images = _images(command, tokenizer.image_size)
            return score_tokenizer(tokenizer, images, pfid_images=command.pfid_images, seed=command.seed, progress=tell)
        case ["generator", "tokenizer", "images" | "reference" as real]:
            generator = load_generator(command.generator).to(device)
            tokenizer = load_tokenizer(command.tokenizer).to(device)
            if real == "reference":
                reference = Reference.load(command.reference)
            else:
                reference = Reference.of(_images(command, tokenizer.image_size), extractor("lite0", device))
            labels = _balanced(generator, command.count)
            return score_generator(
                generator, tokenizer, reference, labels, sampling=sampling, seed=command.seed, progress=tell
            )
        case ["images", "reference"]:
            reference, images = (
                Reference.load(command.reference),
                _images(command, command.size or size_of(command.images)),
            )
            return [score_images(images, reference, extractor("lite0", device), metric="fd", progress=tell)]
    raise ValueError(
        "evaluate takes --tokenizer and --images; or --generator, --tokenizer and one of --images and --reference; "
        "or --images and --reference"
    )


def reference(command: Command) -> None:
    """The reference that images are, in a file."""
    images = _images(command, command.size or size_of(command.images))
    with Progress("reference", len(images), quiet=command.quiet) as progress:
        made = Reference.of(
            images, extractor("lite0", device_of(command.device)), progress=lambda done, total: progress.update(done)
        )
    made.save(command.out)
    if not command.quiet:
        print(f"reference of {len(images)} images: {command.out}")


def report(command: Command) -> None:
    """The page of a run."""
    print(f"report: {write_report(command.dir)}")


def _images(command: Command, size: int) -> ImageSet:
    return images_of(command.images, size, split="validation", upscale=command.upscale)


def _balanced(generator: AutoregressiveModel, count: int) -> Tensor:
    return torch.arange(count) % generator.no_label


def _name(score: Score) -> str:
    """`pfid_cell, alpha 0.9, delta 8`: the metric, and what tells it from its like."""
    cell = [f"{part} {score.protocol[part]}" for part in ("alpha", "delta") if part in score.protocol]
    return ", ".join([score.metric, *cell])


def _value(score: Score) -> str:
    bounds = "" if score.interval is None else f"   95 %: {score.interval[0]:.4g} to {score.interval[1]:.4g}"
    return f"{score.value:<10.4g} {score.images} images{bounds}"
