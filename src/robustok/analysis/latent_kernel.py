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

from robustok.evaluation.scores.halves import Halves
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Latents

FREQUENCIES = 512  # of the views of a whole image
WIDTH = 8192  # features of the view of codes, over all positions
BLOCK = 100  # images whose features are computed at once
PAIRS = 500  # images or codes whose distances set the bandwidth
JOINT = "joint"  # the view to rely on: positions tell strengths apart best, but see no two tokens at once
VIEWS = (JOINT, "image", "codes", "pooled")

Rows: TypeAlias = Float[Tensor, "b f"]  # one of length 1 for each image


class Views(NamedTuple):
    """The ways in which latents are compared, each a function to rows whose inner products are the kernel."""

    lookup: Callable[[Tensor], Latents]  # of tokens; latents are looked up as they are
    by_name: dict[str, Callable[[Latents], Rows]]


def views(real: Tensor, codebook: Codebook, lookup: Callable[[Tensor], Latents] = lambda latents: latents) -> Views:
    """The three ways latents are compared in.

    image: all codes of an image as one point; codes: each position by itself, averaged over positions, with frequencies
    of its own; pooled: the mean code. Bandwidths h are the median squared distance of two real images, or of two codes
    (Gretton et al. 2012).
    """
    latents = torch.cat([lookup(part) for part in real.split(BLOCK)])
    flat, pooled = latents.flatten(1), latents.mean(dim=1)
    n, d = latents.shape[1:]
    of_image = _waves(flat.shape[1], FREQUENCIES, _median_square(flat)).to(flat.device)
    of_code = _waves(d, n * max(8, WIDTH // (2 * n)), _median_square(codebook)).unflatten(1, (n, -1)).to(flat.device)
    of_mean = _waves(d, FREQUENCIES, _median_square(pooled)).to(flat.device)
    return Views(
        lookup,
        {
            "image": lambda latents: _cosines(latents.flatten(1).float() @ of_image),
            "codes": lambda latents: _cosines(torch.einsum("bnd,dnw->bnw", latents, of_code)).flatten(1) / n**0.5,
            "pooled": lambda latents: _cosines(latents.mean(dim=1).float() @ of_mean),
        },
    )


class Embedded:
    """A set of images in one view, and the mean features of some parts of it."""

    def __init__(self, rows: Rows, parts: Halves):
        """`parts` (parts b) says which images belong to each part, at least two."""
        self.rows, self.parts = rows, parts
        self.count = parts.sum(dim=1).double().to(rows.device)
        total = torch.zeros(len(parts), rows.shape[1], dtype=torch.float64, device=rows.device)
        for block, chosen in zip(rows.split(BLOCK), parts.to(rows).split(BLOCK, dim=1), strict=True):
            total += (chosen @ block).double()
        self.mean = total / self.count[:, None]
        self.within = self._without_pairs(self.mean.square().sum(dim=1), self.count)

    def mmd(self, other: "Embedded") -> Float64[Tensor, " parts"]:
        """Unbiased squared MMD of each part of this set and the same part of the other (Gretton et al. 2012, eq. 3).

        Images at the same position of the two sets do not count as a pair: they are of the same class, or even made of
        the same image, while within a set no image meets itself, so that equal distributions would seem closer than
        they can be. Near 0, perhaps below, where the distributions are equal.
        """
        matched = self.parts.to(self.mean) @ (self.rows * other.rows).sum(dim=1, dtype=torch.float64)
        across = self._without_pairs((self.mean * other.mean).sum(dim=1), matched)
        return self.within + other.within - 2 * across

    def _without_pairs(self, mean: Tensor, left_out: Tensor) -> Tensor:
        """The mean kernel of all pairs, less some pairs, one for each image, with this sum."""
        return (mean * self.count**2 - left_out) / (self.count * (self.count - 1))


def embed(images: Tensor, kernels: Views, parts: Halves) -> dict[str, Embedded]:
    """Tokens or latents in every view, some images at a time."""
    rows: dict[str, list[Rows]] = {name: [] for name in kernels.by_name}
    for part in images.split(BLOCK):
        latents = kernels.lookup(part)
        for name, view in kernels.by_name.items():
            rows[name].append(view(latents))
    return {name: Embedded(torch.cat(of), parts.to(of[0].device)) for name, of in rows.items()}


def distances(one: dict[str, Embedded], other: dict[str, Embedded]) -> Float64[Tensor, "views parts"]:
    """Squared MMD in all of `VIEWS`; joint is that of the sum of the first two kernels, half of each."""
    image, codes, pooled = (embedded.mmd(other[view]) for view, embedded in one.items())
    return torch.stack([(image + codes) / 2, image, codes, pooled])


def _waves(width: int, frequencies: int, bandwidth: float) -> Float[Tensor, "width frequencies"]:
    normal = torch.randn(width, frequencies, generator=stream(0, "random features", width))
    return normal * (2 / bandwidth) ** 0.5


def _cosines(angles: Float[Tensor, "... frequencies"]) -> Tensor:
    return torch.cat([angles.cos(), angles.sin()], dim=-1) / angles.shape[-1] ** 0.5


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
