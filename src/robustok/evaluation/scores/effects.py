"""Three effects that the paper shows in pictures, as numbers: images off the real ones, pale colors, lost detail.

Every set of images is compared with the same real images; a set of other real images shows what is left when nothing
is wrong. The same tokens decoded by two decoders are compared pair by pair.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.evaluation.features.extractor import Extractor, outputs
from robustok.evaluation.metrics.image_statistics import bands, color_statistics, decibels, radial_power, wasserstein
from robustok.evaluation.metrics.precision_recall import Nearness, nearness
from robustok.evaluation.scores.halves import half_interval, halves
from robustok.evaluation.scores.intervals import Interval
from robustok.shapes import Features

BLOCK = 32  # images whose colors and spectra are computed at once
# in this order; octaves of detail in decibels follow by name
NUMBERS = ("outside", "distance", "color", "contrast", "detail", "coarse_db", "middle_db", "fine_db")


class ImageStatistics(NamedTuple):
    """Some kilobytes an image."""

    features: Features
    colors: Float64[Tensor, "b 6"]
    spectra: Float64[Tensor, "b r"]


def image_statistics(pixels: Iterable[Tensor], extract: Extractor) -> ImageStatistics:
    """The statistics of batches of Pixels (b 3 h w)."""
    features, colors, spectra = [], [], []
    for batch in pixels:
        features.append(outputs(extract, batch).features.cpu())
        for part in batch.split(BLOCK):
            colors.append(color_statistics(part).cpu())
            spectra.append(radial_power(part).cpu())
    return ImageStatistics(torch.cat(features), torch.cat(colors), torch.cat(spectra))


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
    """A decoder's numbers less the first one's, on the same tokens."""

    images: str
    decoder: str
    values: dict[str, float]
    intervals: dict[str, Interval]  # 95 %, over images, each with both decoders


class Effects(NamedTuple):
    effects: tuple[Effect, ...]  # other real images first
    changes: tuple[Change, ...]  # of every set that several decoders made: each against the first of them


def compare(
    real: ImageStatistics, other: ImageStatistics, made: Mapping[tuple[str, str], ImageStatistics], *, seed: int = 0
) -> Effects:
    """Sets of images, by their name and their decoder's, beside the same real ones.

    `other` real images say what there is to expect; of several decoders the original is given first. Raises ValueError
    for a set of another size than theirs.
    """
    chosen = halves(len(other.features), seed=seed)
    everything = torch.ones_like(chosen[:1])
    apart = float(nearness(generated=other.features, real=real.features).distance.mean())
    found: dict[tuple[str, str], Effect] = {}
    of_halves: dict[tuple[str, str], Tensor] = {}
    for (images, decoder), these in {("real", ""): other, **made}.items():
        if len(these.features) != len(other.features):
            raise ValueError(
                f"{len(these.features)} {images} images stand beside sets of {len(other.features)}; give as many"
            )
        near = nearness(generated=these.features, real=real.features)
        own, *parts = (_numbers(these, real, near, apart, half) for half in torch.cat([everything, chosen]))
        values = dict(zip(NUMBERS, own.tolist(), strict=True))
        of_halves[images, decoder] = torch.stack(parts)
        found[images, decoder] = Effect(
            images=images,
            decoder=decoder,
            values=values,
            intervals={
                name: (low if name.endswith("_db") else max(0.0, low), high)
                for name, (low, high) in _intervals(values, of_halves[images, decoder]).items()
            },
            colors=tuple(wasserstein(these.colors, real.colors).tolist()),
            shifts=tuple((these.colors.mean(dim=0) - real.colors.mean(dim=0)).tolist()),
            spectrum=tuple(decibels(these.spectra, real.spectra).tolist()),
        )
    first: dict[str, str] = {}
    changes = []
    for images, decoder in made:
        if (original := first.setdefault(images, decoder)) != decoder:
            before, after = (images, original), (images, decoder)
            change = {name: found[after].values[name] - found[before].values[name] for name in NUMBERS}
            paired = _intervals(change, of_halves[after] - of_halves[before])
            changes.append(Change(images=images, decoder=decoder, values=change, intervals=paired))
    return Effects(tuple(found.values()), tuple(changes))


def _numbers(
    these: ImageStatistics, real: ImageStatistics, near: Nearness, apart: float, chosen: Tensor
) -> Float64[Tensor, " numbers"]:
    """NUMBERS of the chosen images."""
    colors = wasserstein(these.colors[chosen], real.colors)
    power = decibels(these.spectra[chosen], real.spectra)
    return torch.stack(
        [
            near.outside[chosen].double().mean(),
            near.distance[chosen].mean() / apart,
            colors[:3].norm(),
            colors[3:].norm(),
            power.square().mean().sqrt(),
            *(power[band].mean() for band in bands(len(power))),
        ]
    )


def _intervals(values: dict[str, float], parts: Float64[Tensor, "halves numbers"]) -> dict[str, Interval]:
    return {name: half_interval(values[name], part) for name, part in zip(NUMBERS, parts.T, strict=True)}
