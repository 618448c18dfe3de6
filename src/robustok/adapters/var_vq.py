"""VAR's tokenizer (Tian et al. 2024, arXiv 2404.02905): an image as token maps of growing size, coarse to fine.

`docs/models/var.md` has the weights: one file for 256 and 512 pixels, which differ in the sizes of the maps alone.

Tokens are all maps one after another, the coarsest first, each in raster order: 1 + 4 + 9 + ... + 256 = 680 at 256
pixels. Each map codes what the sum of those before it has left over, so `lookup` gives their sum, (b, h w, d), and
a token that errs at a coarse scale moves the whole image. What one might not expect:

- codes are not normalized; the one codebook serves all scales;
- a map is enlarged (bicubic) before one of a few 3 x 3 convolutions smooths it, half and half with what it was; which
  one depends on the fraction of scales already done, by a rule that is uneven for four of them;
- the quantizer's loss is averaged over the scales, the latents being pulled to each partial sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.vqgan import CODES, VQGAN, ConvTokenizer, taming_renames
from robustok.runtime.renaming import Renames, State, count, sizes
from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.encoder import to_map, to_sequence
from robustok.tokenizer.quantizer import Quantized, nearest_code, straight_through
from robustok.tokenizer.tokenizer import check_size

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # sides of the maps at 256 pixels
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)

Map: TypeAlias = Float[Tensor, "b d _ _"]  # of any scale

SMOOTHING: Renames = (("^quantize.quant_resi.qresi_ls.*", "^quantizer.smooth.*"),)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The sizes of the codes of all scales."""

    scales: tuple[int, ...] = SCALES_256  # sides of the token maps, coarse to fine; the weights do not tell
    codebook_size: int = 4096  # codes, the same for all scales
    width: int = 32  # channels of a code
    smoothers: int = 4  # convolutions that smooth enlarged maps (share_quant_resi)
    smoothing: float = 0.5  # fraction of a smoothed map that the convolution made (quant_resi)

    def __post_init__(self) -> None:
        if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
            raise ValueError(
                f"scales are {self.scales}; give the sides of the token maps from the smallest to the largest"
            )

    @classmethod
    def of(cls, state: State, scales: Sequence[int], smoothing: float) -> "Codes":
        """The sizes of weights by their original names, which do not tell `scales` and `smoothing`."""
        codebook_size, width = state["quantize.embedding.weight"].shape
        smoothers = count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.")
        return cls(
            scales=tuple(scales), codebook_size=codebook_size, width=width, smoothers=smoothers, smoothing=smoothing
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(side**2 for side in self.scales)


@dataclass(frozen=True, kw_only=True)
class VARTokenizerConfig:
    """The sizes of VAR's tokenizer; the defaults are those of the published one at 256 pixels."""

    network: VQGAN = field(  # encoder and decoder
        default_factory=lambda: VQGAN(channels=(160, 160, 320, 320, 640), latent=32, stem=160)
    )
    codes: Codes = Codes()  # what is between them
    kernel: int = 3  # side of the convolutions before and after the codes (quant_conv_ks)
    remembered: int = 10  # scales for which the file counts how often codes were used

    @property
    def image_size(self) -> int:
        """Side of an image in pixels: the finest map's, times what a place spans."""
        return self.codes.scales[-1] * self.network.stride


class MultiScale(nn.Module):
    """A latent map as a sum of codes over scales (arXiv 2404.02905, algorithms 1 and 2)."""

    def __init__(self, config: Codes):
        super().__init__()
        self.config, self.side, self.last = config, config.scales[-1], len(config.scales) - 1
        self.embedding = nn.Parameter(torch.randn(config.codebook_size, config.width) / config.width**0.5)
        convs = (nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.smoothers))
        self.smooth = nn.ModuleList(convs)

    @property
    def codebook(self) -> Codebook:
        return self.embedding

    def split(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The tokens of each scale. Raises ValueError for any other number of tokens than all scales have."""
        blocks = self.config.blocks
        if tokens.shape[1] != sum(blocks):
            raise ValueError(
                f"{tokens.shape[1]} tokens are not those of maps with sides {self.config.scales}, which are "
                f"{sum(blocks)}; pass the tokens of all scales, coarse to fine"
            )
        return tokens.split(blocks, dim=1)

    def shrink(self, x: Map, scale: int) -> Map:
        """The whole map at the size of a scale, by means over areas."""
        side = self.config.scales[scale]
        return x if scale == self.last else F.interpolate(x, size=(side, side), mode="area")

    def spread(self, tokens: Tokens, scale: int) -> Map:
        """The map that the tokens of one scale add to the whole one."""
        x = to_map(F.embedding(tokens, self.embedding))
        if scale < self.last:
            x = F.interpolate(x, size=(self.side, self.side), mode="bicubic")
        fraction = self.config.smoothing
        return (1 - fraction) * x + fraction * self.smooth[self._smoother(scale)](x)

    def sums(self, tokens: Tokens) -> Iterator[Map]:
        """The map after each scale; the last is the whole."""
        parts = [self.spread(part, scale) for scale, part in enumerate(self.split(tokens))]
        total = torch.zeros_like(parts[0])
        for part in parts:
            total = total + part
            yield total

    def next_inputs(self, tokens: Tokens) -> Float[Tensor, "b l d"]:
        """The inputs of VAR at every scale but the first: the sum of those before it, at that scale's size."""
        inputs = [
            to_sequence(self.shrink(x, scale)) for scale, x in enumerate(self.sums(tokens), 1) if scale <= self.last
        ]
        return torch.cat(inputs, dim=1) if inputs else self.embedding.new_zeros(len(tokens), 0, self.config.width)

    def forward(self, latents: Latents) -> Quantized:
        """Codes of what each scale leaves over, summed. The loss is the mean over scales of codebook loss + 0.25
        commitment loss of the sum so far."""
        with torch.autocast(latents.device.type, enabled=False):  # near codes differ by less than bf16 resolves
            whole = to_map(latents.float())
            total, loss, tokens = torch.zeros_like(whole), whole.new_zeros(()), []
            for scale in range(self.last + 1):
                left = self.shrink((whole - total).detach(), scale)
                tokens.append(nearest_code(to_sequence(left), self.embedding.detach()))
                total = total + self.spread(tokens[-1], scale)
                loss = loss + F.mse_loss(total, whole.detach()) + 0.25 * F.mse_loss(total.detach(), whole)
        codes = straight_through(latents.float(), to_sequence(total))
        return Quantized(codes, torch.cat(tokens, dim=1), loss / (self.last + 1))

    def _smoother(self, scale: int) -> int:
        """The convolution whose place in [0, 1] is nearest to that of the scale."""
        k = self.config.smoothers
        margin = 1 / 3 / k if k == 4 else 1 / 2 / k
        return int(np.abs(np.linspace(margin, 1 - margin, k) - scale / max(1, self.last)).argmin())


class VARTokenizer(ConvTokenizer):
    """VAR's tokenizer: a `TokenizerLike` whose latents are the whole map in raster order, whose tokens all scales."""

    family, config_type = "var-vq", VARTokenizerConfig
    marks = ("quantize.quant_resi.qresi_ls.0.weight", "encoder.conv_in.weight")
    decider_fields = ("codes.scales", "codes.smoothing")
    config: VARTokenizerConfig

    def __init__(self, config: VARTokenizerConfig):
        super().__init__(config, config.codes.width, kernel=config.kernel)
        self.tokens_per_image = sum(config.codes.blocks)
        self.quantizer = MultiScale(config.codes)
        self.register_buffer("hits", torch.zeros(config.remembered, config.codes.codebook_size))

    def encode(self, images: Images) -> Latents:
        check_size(images, self.image_size)
        return super().encode(images)

    def lookup(self, tokens: Tokens) -> Float[Tensor, "b positions d"]:
        """The sum of all scales; `decode` takes that of some of them, too."""
        *_, whole = self.quantizer.sums(tokens)
        return to_sequence(whole)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        return straight_through(latents, codes)

    @classmethod
    def config_from_state(
        cls, state: State, *, scales: Sequence[int] = SCALES_256, smoothing: float = 0.5
    ) -> VARTokenizerConfig:
        """Sizes of weights, which tell neither `scales` (SCALES_512 for 512 pixels) nor `smoothing`."""
        book, conv, hits = "quantize.embedding.weight", "quant_conv.weight", "quantize.ema_vocab_hit_SV"
        shape = sizes(state, book, conv, hits, "encoder.conv_in.weight", "decoder.conv_in.weight")
        return VARTokenizerConfig(
            network=VQGAN.of(state, taming_renames(count(state, r"decoder\.up\.(\d+)\.")), "taming"),
            codes=Codes.of(state, scales, smoothing),
            kernel=shape[conv][2],
            remembered=shape[hits][0],
        )

    @classmethod
    def renames(cls, config: VARTokenizerConfig) -> Renames:
        hits = ("^quantize.ema_vocab_hit_SV", "^hits")
        return (*taming_renames(len(config.network.channels)), *CODES, *SMOOTHING, hits)
