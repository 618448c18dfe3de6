"""Halves of a set of images, and the intervals that they give."""

import math

import pytest
import torch
from torch import Tensor

from robustok.evaluation.scores.halves import half_interval, halves, other_halves


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_halves_are_halves_and_their_spread_is_that_of_the_mean():
    chosen = halves(101, count=400)
    assert (chosen[:200].sum(dim=1) == 50).all()
    assert (chosen ^ chosen[other_halves(400)]).all()
    values = normal(101).double()
    means = torch.stack([values[half].mean() for half in chosen])
    low, high = half_interval(0.0, means)
    assert high == pytest.approx(1.96 * float(values.std()) / math.sqrt(101), rel=0.12)  # of 400 halves: 3 sigma
    assert low == -high
    assert not torch.equal(halves(101, seed=1), halves(101, seed=2))
    with pytest.raises(ValueError, match="at least 4"):
        halves(3)
