"""Intervals from random halves of the images: how far a number would move if other images had been drawn.

A statistic of half the images, drawn without replacement, varies about that of all as the statistic of all varies
about the truth: m of N images have a variance of S^2 / m (1 - m / N), which is S^2 / N for m = N / 2. Unlike a
bootstrap, no image comes twice, so distances between sets keep their meaning.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustok.evaluation.scores.intervals import NORMAL_95, Interval
from robustok.runtime.seeding import stream

COUNT = 100  # halves

Halves = Bool[Tensor, "halves b"]


def halves(images: int, *, seed: int = 0, count: int = COUNT) -> Halves:
    """Images of each half: `count` / 2 random halves, then the other half of each. ValueError for less than 4."""
    if images < 4:
        raise ValueError(f"{images} images cannot be halved into sets of two; give at least 4, better some hundreds")
    order = torch.rand(count // 2, images, generator=stream(seed, "halves", images)).argsort(dim=1).argsort(dim=1)
    chosen = order < images // 2
    return torch.cat([chosen, ~chosen])


def other_halves(count: int) -> Int[Tensor, " halves"]:
    """The number of each half's other half."""
    return torch.arange(count).roll(count // 2)


def half_interval(value: float, of_halves: Float[Tensor, " halves"]) -> Interval:
    """95 % interval of a statistic of all images, from its values in the halves."""
    error = NORMAL_95 * float(of_halves.double().std())
    return value - error, value + error
