"""VAR's multi-scale VQ (Tian et al. 2024, arXiv 2404.02905): a map of latents as token maps of growing size.

A residual quantizer whose levels are maps from coarse to fine. Tokens are all maps one after another, the coarsest
first, each in raster order: with sides 1, 2, 4 and 8 an image of 64 latents has 1 + 4 + 16 + 64 = 85 tokens, and one
that errs at a coarse scale moves the whole image. What one might not expect:

- codes are not normalized; the one codebook serves all scales;
- a map is enlarged (bicubic) before one of a few 3 x 3 convolutions smooths it, half and half with what it was; which
  one depends on the fraction of scales already done, by a rule that is uneven for four of them;
- the loss is averaged over the scales, the latents being pulled to each partial sum, and codes learn from all sums that
  they are part of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Latents, Tokens
from robustok.tokenizer.encoder import to_map, to_sequence
from robustok.tokenizer.quantizers.learned import check_codebook
from robustok.tokenizer.quantizers.residual import Residual

Map: TypeAlias = Float[Tensor, "b d _ _"]  # of any scale


@dataclass(frozen=True, kw_only=True)
class MultiScaleVQ:
    """Multi-scale residual vector quantization of a square map of latents (arXiv 2404.02905)."""

    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # sides of the token maps, coarse to fine
    codebook_size: int = 4096  # codes, the same for all scales
    width: int = 32  # channels of a code
    smoothers: int = 4  # convolutions that smooth enlarged maps (share_quant_resi)
    smoothing: float = 0.5  # fraction of a smoothed map that the convolution made (quant_resi)
    commitment: float = 0.25  # weight of the latents' pull towards the sums so far
    revive_after: int = 100  # training steps without use after which a code is placed anew; 0 = never
    deciding: ClassVar[tuple[str, ...]] = ("scales", "smoothing")  # that decide the tokens and that no weight tells

    def __post_init__(self) -> None:
        if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
            raise ValueError(
                f"scales are {self.scales}; give the sides of the token maps from the smallest to the largest"
            )
        check_codebook(self)
        if self.smoothers < 1 or not 0 <= self.smoothing <= 1:
            raise ValueError(
                f"smoothers is {self.smoothers} and smoothing {self.smoothing}; give 1 convolution or more, and a "
                "fraction from 0 to 1"
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(side**2 for side in self.scales)

    def tokens_per_level(self, latents: int) -> tuple[int, ...]:
        """Tokens of each scale. Raises ValueError for another number of latents than the finest map has."""
        side = self.scales[-1]
        if latents != side**2:
            raise ValueError(
                f"the finest of the scales {self.scales} is a map of {side} x {side}, and the encoder makes {latents} "
                "latents; give scales that end with the side of its map, for example [1, 2, 4, 8] for 64 latents"
            )
        return self.blocks


class MultiScale(Residual):
    """A latent map as a sum of codes over scales (arXiv 2404.02905, algorithms 1 and 2)."""

    alone = False

    def __init__(self, config: MultiScaleVQ):
        super().__init__(config.codebook_size, config.width)
        self.config: Any = config
        self.levels, self.commitment = len(config.scales), config.commitment
        self.side, self.last = config.scales[-1], len(config.scales) - 1
        convs = (nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.smoothers))
        self.smooth = nn.ModuleList(convs)

    def whole(self, latents: Latents) -> Map:
        """Latents as a map."""
        return to_map(latents)

    def sequence(self, whole: Map) -> Latents:
        """A map of any scale as latents."""
        return to_sequence(whole)

    def split(self, tokens: Tokens) -> Sequence[Tensor]:
        """The tokens of each scale. Raises ValueError for any other number of tokens than all scales have."""
        blocks = self.config.blocks
        if tokens.shape[1] != sum(blocks):
            raise ValueError(
                f"{tokens.shape[1]} tokens are not those of maps with sides {self.config.scales}, which are "
                f"{sum(blocks)}; pass the tokens of all scales, coarse to fine"
            )
        return tokens.split(blocks, dim=1)

    def shrink(self, whole: Map, level: int) -> Map:
        """The whole map at the size of a scale, by means over areas."""
        side = self.config.scales[level]
        return whole if level == self.last else F.interpolate(whole, size=(side, side), mode="area")

    def spread(self, tokens: Tokens, level: int) -> Map:
        """The map that the tokens of one scale add to the whole one."""
        x = to_map(F.embedding(tokens, self.embedding))
        if level < self.last:
            x = F.interpolate(x, size=(self.side, self.side), mode="bicubic")
        fraction = self.config.smoothing
        return (1 - fraction) * x + fraction * self.smooth[self._smoother(level)](x)

    def next_inputs(self, tokens: Tokens) -> Float[Tensor, "b l d"]:
        """The inputs of VAR at every scale but the first: the sum of those before it, at that scale's size."""
        inputs = [
            to_sequence(self.shrink(x, scale)) for scale, x in enumerate(self.sums(tokens), 1) if scale <= self.last
        ]
        return torch.cat(inputs, dim=1) if inputs else self.embedding.new_zeros(len(tokens), 0, self.config.width)

    def _smoother(self, scale: int) -> int:
        """The convolution whose place in [0, 1] is nearest to that of the scale."""
        k = self.config.smoothers
        margin = 1 / 3 / k if k == 4 else 1 / 2 / k
        return int(np.abs(np.linspace(margin, 1 - margin, k) - scale / max(1, self.last)).argmin())
