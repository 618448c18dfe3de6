"""pFID without a codebook: how much a tokenizer's images suffer when its latents are noisy.

The sibling of `metrics.pfid`: the same five fractions alpha of tokens, every image perturbed, and the
mean of 15 Frechet distances to the input images. Instead of delta nearest codes there are three strengths s of
noise. A latent z becomes m + (1 - s) (z - m) + s k e, with the mean m and the standard deviation k of each of its
channels and Gaussian e: it looks like real latents at noise level s of flow matching, where a sampler that stopped
early or took a wrong turn leaves them. Scaling or shifting a channel, undone in the decoder, changes nothing.

A cell moves latents by sqrt(2 alpha) s standard deviations in root mean square: 0.10 to 0.40 over the grid. On the
demo's tokenizer its own generator moved real latents by 0.18 and 0.37 when these had been noised to levels 0.25 and
0.5 (SDEdit), which is why the strengths are these. Nobody has published such a score: grid and strengths are
robustok's own, to be compared between tokenizers that were scored by it and with nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.evaluation.metrics.pfid import ALPHAS
from robustok.runtime.seeding import stream
from robustok.shapes import Latents
from robustok.tokenizer.latent_perturbation import interpolate_noise
from robustok.tokenizer.perturbation import chosen_tokens

STRENGTHS = (0.1, 0.2, 0.3)


class NoiseCell(NamedTuple):
    """One strength of perturbation."""

    alpha: float  # fraction of an image's tokens that are disturbed
    strength: float  # s, the fraction of noise in them: their noise level


NOISE_GRID = tuple(NoiseCell(alpha, strength) for alpha in ALPHAS for strength in STRENGTHS)


class ChannelStats(NamedTuple):
    """Number, mean and scatter (sum of squared deviations from the mean) of each channel, float64, on the CPU."""

    tokens: int  # of all images
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, " d"]

    @classmethod
    def of(cls, latents: Latents) -> "ChannelStats":
        """The statistics of a batch of at least one image."""
        rows = latents.detach().flatten(0, 1).double().cpu()
        mean = rows.mean(dim=0)
        return cls(len(rows), mean, (rows - mean).square().sum(dim=0))

    @classmethod
    def total(cls, parts: "Iterable[ChannelStats]") -> "ChannelStats":
        """The statistics of all parts together (Chan et al. 1979), merged in their order."""
        return reduce(cls._merged, parts)

    def _merged(self, other: "ChannelStats") -> "ChannelStats":
        tokens, gap = self.tokens + other.tokens, other.mean - self.mean
        between = self.tokens * other.tokens / tokens * gap.square()
        return ChannelStats(tokens, self.mean + other.tokens / tokens * gap, self.scatter + other.scatter + between)

    @property
    def std(self) -> Float64[Tensor, " d"]:
        """The standard deviation of each channel."""
        return (self.scatter / self.tokens).sqrt()


def noised_by_cells(
    latents: Latents, channels: ChannelStats, cells: Sequence[NoiseCell] = NOISE_GRID, *, seed: int, block: int
) -> Iterator[tuple[NoiseCell, Latents]]:
    """The same latents disturbed as each cell says, one cell after the other; exactly round(alpha n) tokens an image.

    The random numbers depend on seed, cell and `block`, the position of these images among all blocks of images.
    """
    b, n, _ = latents.shape
    mean, std = channels.mean.float(), channels.std.float()
    for number, cell in enumerate(cells):
        generator = stream(seed, "pfid, latents", number, block)
        chosen = chosen_tokens(b, n, cell.alpha, 1.0, generator=generator)
        noise = mean + std * torch.randn(latents.shape, generator=generator)
        yield cell, interpolate_noise(latents, noise.to(latents), chosen, torch.full((b,), cell.strength))
