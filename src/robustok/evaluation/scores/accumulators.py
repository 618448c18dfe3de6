"""What passes over images leave behind of a tokenizer's reconstructions, and the scores that this makes."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

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

PairDistance: TypeAlias = Callable[[Images, Images], Tensor]  # images, reconstructions -> (b,), as LPIPS


class FeatureAccumulator:
    """Features in one space of images, of their reconstructions, of perturbed ones and of what is between two."""

    def __init__(self, extract: Extractor, cells: Sequence[Cell | NoiseCell]):
        space = extract.describe()
        self.extract = extract
        self.real, self.reconstructed = FeatureStream(space), FeatureStream(space)
        self.real_of_pfid = FeatureStream(space, KEPT)  # of the images that are perturbed, too
        self.reconstructed_of_pfid = FeatureStream(space, KEPT)
        self.perturbed = [(cell, FeatureStream(space, KEPT)) for cell in cells]  # cells of few codes may be equal
        self.between = FeatureStream(space, KEPT)

    def add(self, pixels: Pixels, output: Pixels, indices: Tensor, positions: Tensor) -> None:
        """Images and their reconstructions; `positions` are the images' among those of pFID, empty if they are not."""
        real, reconstructed = (self._extracted(x) for x in (pixels, output))
        self.real.add(real, indices)
        self.reconstructed.add(reconstructed, indices)
        if len(positions):
            self.real_of_pfid.add(real, positions)
            self.reconstructed_of_pfid.add(reconstructed, positions)

    def add_perturbed(self, number: int, pixels: Pixels, positions: Tensor) -> None:
        """The same images perturbed as the cell of that number says."""
        self.perturbed[number][1].add(self._extracted(pixels), positions)

    def add_between(self, pixels: Pixels, positions: Tensor) -> None:
        """What is between the latents of the same images and their nearest neighbors."""
        self.between.add(self._extracted(pixels), positions)

    def _extracted(self, pixels: Pixels) -> Outputs:
        """Features alone: the statistics of anything else would not be used."""
        found = extracted(self.extract, pixels)
        return Outputs(found.features, side=found.side)

    def gather(self) -> None:
        """On the main process, what all of them saw; one stream at a time, for statistics are large."""
        self.real, self.reconstructed = self.real.gather(), self.reconstructed.gather()
        self.real_of_pfid = self.real_of_pfid.gather()
        self.reconstructed_of_pfid = self.reconstructed_of_pfid.gather()
        self.perturbed = [(cell, stream.gather()) for cell, stream in self.perturbed]
        self.between = self.between.gather()

    def scores(
        self, protocol: Mapping[str, Any], about_pfid: Mapping[str, Any], about_ifid: Mapping[str, Any], seed: int
    ) -> Iterator[Score]:
        """rFID, of all images and of pFID's; pFID, the mean of its cells; the cells; and iFID, where there are latents.

        A Frechet distance falls with the number of images, so it is the rFID of pFID's images that pFID goes with.
        """
        protocol = {
            **self.real.space,
            **protocol,
            "interval": "95 %, over images, each drawn with its reconstruction",
        }
        spaced = {"images": "spread over the reference"}
        yield Distance.between(self.real, self.reconstructed, paired=True).score("rfid", protocol)
        clean = Distance.between(self.real_of_pfid, self.reconstructed_of_pfid, paired=True)
        yield clean.score("rfid_pfid_images", {**protocol, **spaced})
        cells = [(c, Distance.between(self.real_of_pfid, stream, paired=True)) for c, stream in self.perturbed]
        mean = Distance(
            math.fsum(distance.value for _, distance in cells) / len(cells),
            torch.stack([distance.influence for _, distance in cells]).mean(dim=0),
            self.real_of_pfid.count,
        )
        perturbed = {**protocol, **spaced, "beta": 1.0, **about_pfid}
        yield mean.score("pfid", {**perturbed, "cells": len(cells)}, (seed,))
        for cell, distance in cells:
            yield distance.score("pfid_cell", {**perturbed, **cell._asdict()}, (seed,))
        if self.between.count == 2:
            warnings.warn("both midpoints of two images are one, so iFID is left out; give 3 or more", stacklevel=2)
        elif self.between.count:
            distance = Distance.between(self.real_of_pfid, self.between, paired=True)
            yield distance.score("ifid", {**protocol, **spaced, **about_ifid})


class PixelAccumulator:
    """PSNR, SSIM and a perceptual distance of each image: 8 bytes an image and metric."""

    def __init__(self, lpips: PairDistance | None):
        self.lpips = lpips
        self.values: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def add(self, pixels: Pixels, output: Pixels, indices: Tensor) -> None:
        """Images and their reconstructions."""
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
    """How often each code was used."""

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)
        self.images = 0

    def add(self, tokens: Tokens) -> None:
        self.counts += code_counts(tokens, len(self.counts))
        self.images += len(tokens)

    def gather(self) -> None:
        """On the main process, what all of them saw."""
        seen = (self.counts, self.images)
        counts, images = zip(*gather_objects(seen) or [seen], strict=True)
        self.counts, self.images = torch.stack(counts).sum(dim=0), sum(images)

    def scores(self, protocol: Mapping[str, Any]) -> Iterator[Score]:
        values = {
            "codebook_use": used_fraction(self.counts),
            "codebook_perplexity": perplexity(self.counts),
            "dead_codes": dead_codes(self.counts),
        }
        for metric, value in values.items():
            yield Score(
                metric=metric,
                value=value,
                images=self.images,
                protocol={**protocol, "codebook_size": len(self.counts)},
            )


class ReconstructionAccumulator:
    """All of it: features in each space, pixels, and codes where there are any."""

    def __init__(
        self,
        spaces: Sequence[Extractor],
        cells: Sequence[Cell | NoiseCell],
        lpips: PairDistance | None,
        codebook_size: int | None,
    ):
        self.spaces = [FeatureAccumulator(extract, cells) for extract in spaces]
        self.pixels = PixelAccumulator(lpips)
        self.codes = CodeAccumulator(codebook_size) if codebook_size else None

    def add(self, pixels: Pixels, output: Pixels, tokens: Tensor, indices: Tensor, positions: Tensor) -> None:
        """Images and their reconstructions, from tokens or latents; `positions` as `FeatureAccumulator` takes them."""
        self.pixels.add(pixels, output, indices)
        if self.codes:
            self.codes.add(tokens)
        for space in self.spaces:
            space.add(pixels, output, indices, positions)

    def add_perturbed(self, number: int, output: Pixels, positions: Tensor) -> None:
        for space in self.spaces:
            space.add_perturbed(number, output, positions)

    def add_between(self, output: Pixels, positions: Tensor) -> None:
        for space in self.spaces:
            space.add_between(output, positions)

    def gather(self) -> None:
        """On the main process, what all of them saw."""
        for space in self.spaces:
            space.gather()
        self.pixels.gather()
        if self.codes:
            self.codes.gather()

    def scores(
        self, protocol: Mapping[str, Any], about_pfid: Mapping[str, Any], about_ifid: Mapping[str, Any], seed: int
    ) -> Iterator[Score]:
        """Those of every space, then the others."""
        for space in self.spaces:
            yield from space.scores(protocol, about_pfid, about_ifid, seed)
        yield from self.pixels.scores(protocol)
        if self.codes:
            yield from self.codes.scores(protocol)
