"""Maximum mean discrepancy of latents, in time and memory linear in the images.

A Gaussian kernel exp(-|x - y|^2 / h) is the mean over frequencies w ~ N(0, 2 / h) of cos(w'(x - y)), so the cosines
and sines of some frequencies are features whose inner product approximates it (Rahimi & Recht 2007), and the squared
MMD becomes the squared difference of two mean features. The features have length 1, so that pairs of an image with
itself, which the unbiased estimate leaves out, are counted exactly.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Latents

FREQUENCIES = 1024  # of the views of a whole image
WIDTH = 16_384  # features of the view of codes, over all places
BLOCK = 100  # images whose features are computed at once
PAIRS = 500  # images or codes whose distances set the bandwidth

Embedding: TypeAlias = Float[Tensor, "b f"]  # rows of length 1


class View(NamedTuple):
    """One way to look at latents."""

    name: str
    embed: Callable[[Latents], Embedding]


def views(real: Latents, codebook: Codebook) -> list[View]:
    """The three ways latents are compared in.

    image: all codes of an image as one point; codes: each place by itself, averaged over places; pooled: the mean
    code. Bandwidths h are the median squared distance of two real images, or of two codes (Gretton et al. 2012).
    """
    flat, pooled = real.flatten(1), real.mean(dim=1)
    n, d = real.shape[1:]
    of_image = _waves(flat.shape[1], FREQUENCIES, _median_square(flat), "image").to(real.device)
    of_code = _waves(d, max(8, WIDTH // (2 * n)), _median_square(codebook), "codes").to(real.device)
    of_mean = _waves(d, FREQUENCIES, _median_square(pooled), "pooled").to(real.device)
    return [
        View("image", lambda latents: _embed(latents.flatten(1), of_image)),
        View("codes", lambda latents: _embed(latents, of_code).flatten(1) / n**0.5),
        View("pooled", lambda latents: _embed(latents.mean(dim=1), of_mean)),
    ]


class Moments(NamedTuple):
    """What the MMD asks of a set of embedded images, all of them or some halves of them."""

    mean: Float64[Tensor, "sets f"]  # mean embedding of each set
    within: Float64[Tensor, " sets"]  # mean kernel of two different images of the set

    @classmethod
    def of(cls, embedded: Embedding, chosen: Tensor) -> "Moments":
        """`chosen` (sets b) says which images belong to each set, at least two."""
        count = chosen.sum(dim=1).double()
        summed = torch.zeros(len(chosen), embedded.shape[1], dtype=torch.float64, device=embedded.device)
        for part, weights in zip(embedded.split(BLOCK), chosen.to(embedded).split(BLOCK, dim=1), strict=True):
            summed += (weights @ part).double()
        within = (summed.square().sum(dim=1) - count) / (count * (count - 1))
        return cls(summed / count[:, None], within)


def mmd_of(a: Moments, b: Moments) -> Float64[Tensor, " sets"]:
    """Unbiased squared MMD of the sets, one by one (Gretton et al. 2012, eq. 3); near 0, perhaps below, where equal."""
    return a.within + b.within - 2 * (a.mean * b.mean).sum(dim=1)


def _waves(width: int, frequencies: int, bandwidth: float, purpose: str) -> Float[Tensor, "width frequencies"]:
    normal = torch.randn(width, frequencies, generator=stream(0, "random features", width))
    return normal * (2 / bandwidth) ** 0.5


def _embed(points: Float[Tensor, "... width"], waves: Float[Tensor, "width frequencies"]) -> Tensor:
    angles = points.float() @ waves
    return torch.cat([angles.cos(), angles.sin()], dim=-1) / waves.shape[1] ** 0.5


def _median_square(points: Float[Tensor, "b f"]) -> float:
    """Median squared distance of two of at most 500 points, evenly spaced. Raises ValueError where all are equal."""
    count = min(len(points), PAIRS)
    some = points[torch.arange(count, device=points.device) * len(points) // count].double()
    median = float(torch.pdist(some).square().median()) if count > 1 else 0.0
    if median <= 0:
        raise ValueError(
            f"most of the {len(points)} latents or codes are equal, which leaves no scale to compare them on; "
            "look at the images, and at the codebook for collapse"
        )
    return median
