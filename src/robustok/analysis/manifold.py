"""How far images lie from the real ones in feature space."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from robustok.runtime.words import counted, ordinal
from robustok.shapes import Features

ROWS = 1000  # of a distance matrix in memory at once
NEAREST = 3  # the ball around a real image reaches to its third neighbor


class Nearness(NamedTuple):
    """Each image against a set of real ones."""

    outside: Bool[Tensor, " b"]  # in no real image's ball: 1 - precision is their fraction
    distance: Float64[Tensor, " b"]  # to the nearest real image, in root mean square over the features


class Manifold:
    """Real images in feature space, each with a ball to its k-th neighbor (Kynkaanniemi et al. 2019, eq. 1)."""

    def __init__(self, real: Features, k: int = NEAREST):
        """Raises ValueError for k or fewer images."""
        if len(real) <= k:
            some = counted(len(real), "real image")
            raise ValueError(f"there is no {ordinal(k)} nearest neighbor among {some}; give {k + 1} or more")
        self.real = real.double()
        radii = []
        for start in range(0, len(real), ROWS):
            squares = self._squares(self.real[start : start + ROWS])
            squares.diagonal(start).fill_(torch.inf)
            radii.append(squares.kthvalue(k, dim=1).values)
        self.radii = torch.cat(radii)

    def nearness(self, features: Features) -> Nearness:
        """Where images with these features lie. Raises ValueError for features of another width."""
        if features.shape[1] != self.real.shape[1]:
            raise ValueError(
                f"features have {features.shape[1]} numbers and real ones {self.real.shape[1]}; "
                "compute both with the same extractor"
            )
        outside, distance = [], []
        for rows in features.double().split(ROWS):
            squares = self._squares(rows)
            outside.append(~(squares <= self.radii).any(dim=1))
            distance.append((squares.amin(dim=1) / features.shape[1]).sqrt())
        return Nearness(torch.cat(outside), torch.cat(distance))

    def _squares(self, rows: Tensor) -> Tensor:
        """Squared distances (rows, real)."""
        squares = rows.square().sum(dim=1)[:, None] + self.real.square().sum(dim=1)
        return squares.addmm_(rows, self.real.T, alpha=-2).clamp_min_(0)
