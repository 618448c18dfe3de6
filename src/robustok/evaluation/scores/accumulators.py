"""Statistics of a tokenizer's reconstructions, taken in while images pass, and the scores made of them."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustok.evaluation.decoding import seems_from_0
from robustok.evaluation.features.extractor import Extractor, Outputs
from robustok.evaluation.metrics.codebook_use import code_counts, dead_codes, perplexity, used_fraction
from robustok.evaluation.metrics.latent_pfid import NoiseCell
from robustok.evaluation.metrics.pfid import KEPT, Cell
from robustok.evaluation.metrics.pixelwise import WINDOW, psnr, ssim
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted
from robustok.evaluation.scores.intervals import mean_interval
from robustok.evaluation.scores.score import Distance, Score
from robustok.runtime.distributed import gather_objects
from robustok.shapes import Images, Pixels, Tokens, to_images

PSNR_CEILING = 100.0  # dB; stands for the infinite PSNR of an image that is reproduced exactly
# Of 255: images in [0, 1] that are taken for [-1, 1] do not go below the second, go above the third, and their
# originals below the first.
DARK, GRAY, LIGHT = 32, 88, 230
PFID_STREAMS = ("real of pFID", "reconstructed of pFID", "between")  # "between": between two latents

PairDistance: TypeAlias = Callable[[Images, Images], Tensor]  # images, reconstructions -> (b,), as LPIPS


class FeatureAccumulator:
    """Features in one space: streams of images, of reconstructions, of both of pFID's images, and of each cell."""

    def __init__(
        self,
        extract: Extractor,
        cells: Sequence[Cell | NoiseCell],
        about_pfid: Mapping[str, Any],
        about_ifid: Mapping[str, Any],
        seed: int,
    ):
        """`about` is what their protocols say further; `seed` is of pFID's random numbers."""
        space, self.about_pfid, self.about_ifid, self.seed = extract.describe(), about_pfid, about_ifid, seed
        self.extract, self.cells = extract, cells  # cells of few codes may be equal, so streams go by their numbers
        self.streams: dict[str | int, FeatureStream] = {n: FeatureStream(space) for n in ("real", "reconstructed")}
        self.streams |= {name: FeatureStream(space, KEPT) for name in (*PFID_STREAMS, *range(len(cells)))}

    def add(self, pixels: Pixels, positions: Mapping[Any, Tensor]) -> None:
        """Images, to the streams named, at their positions in each: a cell's stream has its number, none is skipped."""
        found = extracted(self.extract, pixels)
        features = Outputs(found.features, side=found.side)  # statistics of anything else would not be used
        for stream, at in positions.items():
            if len(at):
                self.streams[stream].add(features, at)

    def gather(self) -> None:
        """On the main process, what all of them saw; one stream at a time, for statistics are large."""
        self.streams = {name: stream.gather() for name, stream in self.streams.items()}

    def scores(self, protocol: Mapping[str, Any]) -> Iterator[Score]:
        """rFID, of all images and of pFID's; pFID, the mean of its cells; the cells; and iFID, where there are latents.

        A Frechet distance falls with the number of images, so it is the rFID of pFID's images that pFID goes with.
        """
        real, reconstructed, real_of_pfid, reconstructed_of_pfid, between = (
            self.streams[name] for name in ("real", "reconstructed", *PFID_STREAMS)
        )
        protocol = {**real.space, **protocol, "interval": "95 %, over images, each drawn with its reconstruction"}
        spaced = {**protocol, "images": "spread over the reference"}
        yield Distance.between(real, reconstructed, paired=True).score("rfid", protocol)
        clean = Distance.between(real_of_pfid, reconstructed_of_pfid, paired=True)
        yield clean.score("rfid_pfid_images", spaced)
        cells = [Distance.between(real_of_pfid, self.streams[n], paired=True) for n in range(len(self.cells))]
        mean = Distance(
            math.fsum(distance.value for distance in cells) / len(cells),
            torch.stack([distance.influence for distance in cells]).mean(dim=0),
            real_of_pfid.count,
        )
        perturbed = {**spaced, "beta": 1.0, **self.about_pfid}
        yield mean.score("pfid", {**perturbed, "cells": len(cells)}, (self.seed,))
        for cell, distance in zip(self.cells, cells, strict=True):
            yield distance.score("pfid_cell", {**perturbed, **cell._asdict()}, (self.seed,))
        if between.count == 2:
            warnings.warn("both midpoints of two images are one, so iFID is left out; give 3 or more", stacklevel=2)
        elif between.count:
            distance = Distance.between(real_of_pfid, between, paired=True)
            yield distance.score("ifid", {**spaced, **self.about_ifid})


class PixelAccumulator:
    """PSNR, SSIM and a perceptual distance of each image: 8 bytes an image and metric."""

    def __init__(self, lpips: PairDistance | None):
        self.lpips = lpips
        self.values: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.darkest, self.made = 255, (255, 0)  # of all images; of all reconstructions, and the lightest of these

    def add(self, pixels: Pixels, output: Pixels, indices: Tensor) -> None:
        """Images and their reconstructions."""
        self.darkest = min(self.darkest, int(pixels.min()))
        self.made = min(self.made[0], int(output.min())), max(self.made[1], int(output.max()))
        values = {"psnr": psnr(output, pixels).clamp_max(PSNR_CEILING), "ssim": ssim(output, pixels)}
        if self.lpips is not None:
            values["lpips"] = self.lpips(to_images(pixels), to_images(output)).double().flatten().cpu()
        for metric, each in values.items():
            self.values.setdefault(metric, []).append((indices, each))

    def gather(self) -> None:
        """On the main process, what all of them saw."""
        gathered = gather_objects(self.values)
        if gathered:
            metrics = {metric for part in gathered for metric in part}
            self.values = {m: [pair for part in gathered for pair in part.get(m, ())] for m in sorted(metrics)}

    def scores(self, protocol: Mapping[str, Any]) -> Iterator[Score]:
        """Means over images."""
        to_light = self.darkest < DARK and self.made[0] > GRAY and self.made[1] > LIGHT
        if to_light or (self.darkest < GRAY and seems_from_0(*self.made)):
            warnings.warn(
                f"images go down to {self.darkest} of 255, reconstructions to {self.made[0]}, as if 0 were black to "
                "the decoder; decoders make [-1, 1] here, so if it is, scale what it decodes: 2 * images - 1",
                stacklevel=2,
            )
        about: dict[str, Any] = getattr(self.lpips, "describe", dict)()
        how: dict[str, dict[str, Any]] = {"psnr": {"ceiling": PSNR_CEILING}, "ssim": {"window": WINDOW}, "lpips": about}
        for metric in (name for name in how if name in self.values):
            indices, values = (torch.cat(column) for column in zip(*self.values[metric], strict=True))
            values = values[indices.argsort()]  # added up in one order, whoever saw them
            yield Score(
                metric=metric,
                value=(mean := float(values.mean())),
                interval=mean_interval(mean, values) if len(values) > 1 else None,
                images=len(values),
                protocol={**protocol, **how[metric], "interval": "95 %, over images"},
            )


class CodeAccumulator:
    """Counts of each code."""

    def __init__(self, codebook_size: int):
        self.counts, self.images = torch.zeros(codebook_size, dtype=torch.int64), 0

    def add(self, tokens: Tokens) -> None:
        self.counts += code_counts(tokens, len(self.counts))
        self.images += len(tokens)

    def gather(self) -> None:
        """On the main process, what all of them saw."""
        seen = (self.counts, self.images)
        counts, images = zip(*gather_objects(seen) or [seen], strict=True)
        self.counts, self.images = torch.stack(counts).sum(dim=0), sum(images)

    def scores(self, protocol: Mapping[str, Any]) -> Iterator[Score]:
        about = {**protocol, "codebook_size": len(self.counts)}
        measures = {"codebook_use": used_fraction, "codebook_perplexity": perplexity, "dead_codes": dead_codes}
        for metric, measure in measures.items():
            yield Score(metric=metric, value=measure(self.counts), images=self.images, protocol=about)


Accumulator: TypeAlias = FeatureAccumulator | PixelAccumulator | CodeAccumulator
