"""Three effects that the paper shows in pictures, as numbers: images off the real ones, pale colors, lost detail.

Every set of images is compared with the same real images; a set of other real images shows what is left when nothing
is wrong. The same tokens decoded by two decoders are compared pair by pair.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.analysis.color import color_statistics, wasserstein
from robustok.analysis.halves import Halves, half_interval, halves
from robustok.analysis.manifold import Manifold, Nearness
from robustok.analysis.spectrum import bands, decibels, radial_power
from robustok.evaluation.features.extractor import Extractor, outputs
from robustok.evaluation.scores.intervals import Interval
from robustok.shapes import Features

BLOCK = 32  # images whose colors and spectra are computed at once
# what is said of every set, in this order; octaves of detail in decibels follow by name
NUMBERS = ("outside", "distance", "color", "contrast", "detail", "coarse_db", "middle_db", "fine_db")


class Look(NamedTuple):
    """What is kept of a set of images, some kilobytes an image."""

    features: Features
    colors: Float64[Tensor, "b 6"]
    spectra: Float64[Tensor, "b r"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One set of images beside the real ones; intervals are over its images, the real ones held fixed.

    outside: fraction that lies in no real image's ball, 1 - precision. distance: to the nearest real image, relative to
    the other real images'. color: Wasserstein-1 distances of the images' mean L*, a* and b*, as the length of the
    three, in units of Delta E; contrast: likewise of their standard deviations. detail: root mean square over the
    frequencies of the power against real images' in dB; coarse, middle, fine: the mean of that power over octaves,
    below 0 where it is missing.
    """

    images: str  # real, reconstructed, perturbed ...
    decoder: str  # original, tuned; empty for real images
    values: dict[str, float]
    intervals: dict[str, Interval]
    colors: tuple[float, ...]  # Wasserstein-1 of mean L*, a*, b*, then of their standard deviations
    shifts: tuple[float, ...]  # the same six, their mean less the real images'
    spectrum: tuple[float, ...]  # dB at 1, 2 ... cycles per image


@dataclass(frozen=True, kw_only=True)
class Change:
    """The tuned decoder's numbers less the original one's, on the same tokens."""

    images: str
    values: dict[str, float]
    intervals: dict[str, Interval]  # 95 %, over images, each with both decoders


def look(pixels: Iterable[Tensor], extract: Extractor) -> Look:
    """What batches of Pixels (b 3 h w) look like."""
    features, colors, spectra = [], [], []
    for batch in pixels:
        features.append(outputs(extract, batch).features.cpu())
        for part in batch.split(BLOCK):
            colors.append(color_statistics(part).cpu())
            spectra.append(radial_power(part).cpu())
    return Look(torch.cat(features), torch.cat(colors), torch.cat(spectra))


class Effects:
    """Sets of images, one after the other, beside the same real ones."""

    def __init__(self, real: Look, other: Look, *, seed: int = 0):
        """`other` real images, as many as every set has, say what there is to expect."""
        self.real, self.manifold = real, Manifold(real.features)
        self.halves: Halves = halves(len(other.features), seed=seed)
        near = self.manifold.nearness(other.features)
        self.apart = float(near.distance.mean())
        self.found: list[Effect] = []
        self._parts: dict[tuple[str, str], Tensor] = {}  # numbers of the halves
        self._add("real", "", other, near)

    def add(self, images: str, decoder: str, seen: Look) -> None:
        """One more set. Raises ValueError unless it has as many images as the other ones."""
        if len(seen.features) != self.halves.shape[1]:
            raise ValueError(
                f"{len(seen.features)} {images} images stand beside sets of {self.halves.shape[1]}; give as many"
            )
        self._add(images, decoder, seen, self.manifold.nearness(seen.features))

    def changes(self, before: str = "original", after: str = "tuned") -> list[Change]:
        """Of every set that both decoders made."""
        values = {(effect.images, effect.decoder): effect.values for effect in self.found}
        made = []
        for images, decoder in values:
            if decoder == before and (images, after) in values:
                one, two = values[images, before], values[images, after]
                moved = {name: two[name] - one[name] for name in NUMBERS}
                parts = self._parts[images, after] - self._parts[images, before]
                made.append(Change(images=images, values=moved, intervals=_intervals(moved, parts)))
        return made

    def _add(self, images: str, decoder: str, seen: Look, near: Nearness) -> None:
        everything = torch.ones(len(seen.features), dtype=torch.bool)
        values = dict(zip(NUMBERS, self._numbers(seen, near, everything).tolist(), strict=True))
        parts = torch.stack([self._numbers(seen, near, half) for half in self.halves])
        self._parts[images, decoder] = parts
        self.found.append(
            Effect(
                images=images,
                decoder=decoder,
                values=values,
                intervals={
                    name: bounds if name.endswith("_db") else (max(0.0, bounds[0]), bounds[1])
                    for name, bounds in _intervals(values, parts).items()
                },
                colors=tuple(wasserstein(seen.colors, self.real.colors).tolist()),
                shifts=tuple((seen.colors.mean(dim=0) - self.real.colors.mean(dim=0)).tolist()),
                spectrum=tuple(decibels(seen.spectra, self.real.spectra).tolist()),
            )
        )

    def _numbers(self, seen: Look, near: Nearness, chosen: Tensor) -> Float64[Tensor, " numbers"]:
        """NUMBERS of the chosen images."""
        apart = wasserstein(seen.colors[chosen], self.real.colors)
        power = decibels(seen.spectra[chosen], self.real.spectra)
        return torch.stack(
            [
                near.outside[chosen].double().mean(),
                near.distance[chosen].mean() / self.apart,
                apart[:3].norm(),
                apart[3:].norm(),
                power.square().mean().sqrt(),
                *(power[band].mean() for band in bands(len(power))),
            ]
        )


def _intervals(values: dict[str, float], parts: Float64[Tensor, "halves numbers"]) -> dict[str, Interval]:
    return {name: half_interval(values[name], part) for name, part in zip(NUMBERS, parts.T, strict=True)}
