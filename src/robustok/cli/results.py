"""`robustok sample` and `robustok report`."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustok.adapters.published import default_sampling
from robustok.cli.images import device_of
from robustok.cli.models import check_fit, generator_of, tokenizer_of
from robustok.cli.options import Command
from robustok.demo.pictures import write_grid
from robustok.evaluation.evaluate import decoded
from robustok.generators.flow import FlowSampling, LatentGenerator
from robustok.generators.sampling import Sampling, TokenGenerator
from robustok.report.page import write_report
from robustok.runtime.checkpoint import write_bytes
from robustok.runtime.distributed import is_main
from robustok.runtime.logging import Progress
from robustok.runtime.words import counted
from robustok.training.tuning import sample as drawn

IMAGES, SAMPLES = "images", "samples.npz"  # in the folder that is written to
GRID = 400  # images in the grid, at most


def sampling_preset(name: str | None = None) -> Sampling:
    """How tokens are drawn unless settings say otherwise: from the generator's own distribution."""
    return Sampling()


def sampling_of(command: Command, generator: TokenGenerator | LatentGenerator) -> Sampling | FlowSampling:
    """What was typed of how this generator is sampled. Raises ValueError for settings of the other kind."""
    return command.over(default_sampling(generator))


def sample(command: Command) -> None:
    """A grid, an npz and, if asked for, a PNG of each image."""
    device = device_of(command.device)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    generator = generator_of(command.generator, device, tokenizer)
    check_fit(generator, tokenizer)
    sampling = sampling_of(command, generator)
    classes = command.labels or range(generator.no_label)
    labels = torch.tensor([classes[i % len(classes)] for i in range(command.count)])
    former = _former_images(command)
    with Progress("sampling", len(labels), quiet=command.quiet) as progress:
        tokens = drawn(generator, labels, sampling, command.seed, progress.update)
    if not is_main():
        return
    pixels = torch.cat(list(decoded(tokenizer, tokens)))
    columns = len(classes) if len(classes) <= 20 else math.isqrt(min(len(pixels), GRID))
    write_grid(command.out, "grid", "", "", pixels[:GRID], group="overview", columns=min(columns, len(pixels)))
    arrays = io.BytesIO()
    images = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    for file in former:
        file.unlink()
    np.savez(arrays, images, labels.numpy())
    write_bytes(command.out / SAMPLES, arrays.getvalue())
    if command.png:
        for number, image in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            write_bytes(command.out / IMAGES / _png(number), data.getvalue())
    if not command.quiet:
        print(f"grid: {command.out / 'grid.png'}\nimages: {command.out / SAMPLES}")


def _former_images(command: Command) -> list[Path]:
    """The pictures in OUT/images, each of which this run draws anew. Raises ValueError where there are others.

    Those of an earlier run would be scored with those of this one, and what is not ours is not to be lost.
    """
    folder, out = command.out / IMAGES, command.out
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    ours = {_png(number) for number in range(command.count)} if command.png else set()
    if there and (out / SAMPLES).is_file() and command.png and {file.name for file in there} <= ours:
        return there
    if there and (command.png or (out / SAMPLES).is_file()):
        raise ValueError(
            f"{folder} holds {counted(len(there), 'file')} that this run would not replace, such as {there[-1].name}; "
            "they would be taken for its images, so delete that folder or give another --out"
        )
    return []


def _png(number: int) -> str:
    return f"{number:06d}.png"


def report(command: Command) -> None:
    """The page of a run."""
    print(f"report: {write_report(command.dir)}")
