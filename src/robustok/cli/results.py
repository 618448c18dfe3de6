"""`robustok sample` and `robustok report`."""

import io
import math

import numpy as np
import torch
from PIL import Image

from robustok.adapters.published import default_sampling
from robustok.cli.images import device_of
from robustok.cli.models import generator_of, tokenizer_of
from robustok.cli.options import Command
from robustok.demo.pictures import write_grid
from robustok.evaluation.evaluate import decoded
from robustok.generators.flow import FlowSampling, LatentGenerator
from robustok.generators.sampling import Sampling, TokenGenerator
from robustok.report.page import write_report
from robustok.runtime.checkpoint import write_bytes
from robustok.runtime.distributed import is_main
from robustok.runtime.logging import Progress
from robustok.training.tuning import sample as drawn

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
    sampling = sampling_of(command, generator)
    classes = command.labels or range(generator.no_label)
    labels = torch.tensor([classes[i % len(classes)] for i in range(command.count)])
    with Progress("sampling", len(labels), quiet=command.quiet) as progress:
        tokens = drawn(generator, labels, sampling, command.seed, progress.update)
    if not is_main():
        return
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


def report(command: Command) -> None:
    """The page of a run."""
    print(f"report: {write_report(command.dir)}")
