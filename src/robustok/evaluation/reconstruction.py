"""What one pass over images leaves behind of a tokenizer's reconstructions, and the scores that this makes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustok.evaluation.codebook_use import code_counts, dead_codes, perplexity, used_share
from robustok.evaluation.feature_stream import FeatureStream, extracted
from robustok.evaluation.features import Extractor
from robustok.evaluation.intervals import mean_interval
from robustok.evaluation.pfid import KEPT, Cell
from robustok.evaluation.pixelwise import WINDOW, psnr, ssim
from robustok.evaluation.score import Distance, Score
from robustok.runtime.distributed import gather_objects
from robustok.shapes import Images, Pixels, Tokens, to_images

PSNR_CEILING = 100.0  # dB; stands for the infinite PSNR of an image that is reproduced exactly

Perceptual: TypeAlias = Callable[[Images, Images], Tensor]  # images, reconstructions -> (b,), as LPIPS


class FeaturesSeen:
    """Features in one space of images, of their reconstructions and of their perturbed reconstructions."""

    def __init__(self, extract: Extractor, cells: Sequence[Cell]):
        space = extract.describe()
        self.extract = extract
        self.real, self.reconstructed = FeatureStream(space), FeatureStream(space)
        self.real_of_pfid = FeatureStream(space, KEPT)  # of the images that are perturbed, too
        self.perturbed = [(cell, FeatureStream(space, KEPT)) for cell in cells]  # cells of few codes may be equal

    def add(self, pixels: Pixels, output: Pixels, positions: Tensor, places: Tensor | None) -> None:
        """Images and their reconstructions; `places` are the images' among those of pFID, if they are."""
        features = extracted(self.extract, pixels).features
        self.real.add(features, positions)
        if places is not None:
            self.real_of_pfid.add(features, places)
        self.reconstructed.add(extracted(self.extract, output).features, positions)

    def add_perturbed(self, number: int, pixels: Pixels, places: Tensor) -> None:
        """The same images perturbed as the cell of that number says."""
        self.perturbed[number][1].add(extracted(self.extract, pixels).features, places)

    def together(self) -> None:
        """On the main process, what all of them saw; one stream at a time, for statistics are large."""
        self.real, self.reconstructed = self.real.together(), self.reconstructed.together()
        self.real_of_pfid = self.real_of_pfid.together()
        self.perturbed = [(cell, stream.together()) for cell, stream in self.perturbed]

    def scores(self, protocol: Mapping[str, Any], seed: int) -> Iterator[Score]:
        """rFID; pFID, the mean of its cells; and the cells."""
        protocol = {
            **self.extract.describe(),
            **protocol,
            "interval": "95 %, over images, each drawn with its reconstruction",
        }
        yield Distance.between(self.real, self.reconstructed, paired=True).score("rfid", protocol)
        if not self.perturbed:
            return
        cells = [(c, Distance.between(self.real_of_pfid, stream, paired=True)) for c, stream in self.perturbed]
        mean = Distance(
            math.fsum(distance.value for _, distance in cells) / len(cells),
            torch.stack([distance.moved for _, distance in cells]).mean(dim=0),
            self.real_of_pfid.count,
        )
        protocol = {**protocol, "images": "evenly spaced over the reference", "beta": 1.0}
        yield mean.score("pfid", {**protocol, "cells": len(cells)}, (seed,))
        for cell, distance in cells:
            yield distance.score("pfid_cell", {**protocol, **cell._asdict()}, (seed,))


class PixelsSeen:
    """PSNR, SSIM and a perceptual distance of each image: 8 bytes an image and metric."""

    def __init__(self, lpips: Perceptual | None):
        self.lpips = lpips
        self.values: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def add(self, pixels: Pixels, output: Pixels, positions: Tensor) -> None:
        """Images and their reconstructions."""
        values = {"psnr": psnr(output, pixels).clamp_max(PSNR_CEILING), "ssim": ssim(output, pixels)}
        if self.lpips is not None:
            values["lpips"] = self.lpips(to_images(pixels), to_images(output)).double().flatten().cpu()
        for metric, each in values.items():
            self.values.setdefault(metric, []).append((positions, each))

    def together(self) -> None:
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
            positions, values = (torch.cat(column) for column in zip(*self.values[metric], strict=True))
            values = values[positions.argsort()]  # added up in one order, whoever saw them
            yield Score(
                metric=metric,
                value=(mean := float(values.mean())),
                interval=mean_interval(mean, values),
                images=len(values),
                protocol={**protocol, **how[metric], "interval": "95 %, over images"},
            )


class CodesSeen:
    """How often each code was used."""

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)
        self.images = 0

    def add(self, tokens: Tokens) -> None:
        self.counts += code_counts(tokens, len(self.counts))
        self.images += len(tokens)

    def together(self) -> None:
        """On the main process, what all of them saw."""
        seen = (self.counts, self.images)
        counts, images = zip(*gather_objects(seen) or [seen], strict=True)
        self.counts, self.images = torch.stack(counts).sum(dim=0), sum(images)

    def scores(self, protocol: Mapping[str, Any]) -> Iterator[Score]:
        values = {
            "codebook_use": used_share(self.counts),
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
