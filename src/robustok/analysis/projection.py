"""Latents in two dimensions: the principal components of real ones."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.shapes import Latents


class Plane(NamedTuple):
    """The plane in which latents vary most."""

    center: Float64[Tensor, " f"]
    axes: Float64[Tensor, "f 2"]  # of unit length
    fraction: tuple[float, float]  # of the variance, along each axis

    def project(self, latents: Latents) -> Float64[Tensor, "b 2"]:
        """Coordinates of latents (b n d) in the plane."""
        return (latents.flatten(1).double() - self.center) @ self.axes


def principal_plane(latents: Latents) -> Plane:
    """The first two principal components of latents (b n d), each image's taken as one point of n d dimensions.

    The largest entry of an axis is positive. Works on the smaller of the b x b and the f x f matrix. Raises ValueError
    for less than three images, or when they lie on a line.
    """
    points = latents.flatten(1).double()
    center = points.mean(dim=0)
    moved = points - center
    wide = moved.shape[1] > len(moved)
    values, vectors = torch.linalg.eigh(moved @ moved.T if wide else moved.T @ moved)
    values, vectors = values[-2:].flip(0), vectors[:, -2:].flip(1)
    total = float(moved.square().sum())
    if len(points) < 3 or float(values[1]) <= 1e-12 * total:
        raise ValueError(f"{len(points)} images whose latents lie on a line span no plane; give more of them")
    axes = moved.T @ vectors / values.sqrt() if wide else vectors
    sign = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    first, second = (values / total).tolist()
    return Plane(center, axes * sign, (first, second))
