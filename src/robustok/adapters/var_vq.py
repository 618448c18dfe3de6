"""VAR's tokenizer (Tian et al. 2024, arXiv 2404.02905): an image as token maps of growing size, coarse to fine.

`docs/models/var.md` has the weights: one file for 256 and 512 pixels, which differ in the sizes of the maps alone.

Tokens are all maps one after another, the coarsest first, each in raster order: 1 + 4 + 9 + ... + 256 = 680 at 256
pixels. Each map codes what the sum of those before it has left over, so `lookup` gives their sum, (b, h w, d):
`robustok.tokenizer.quantizers.multi_scale`, which can be trained anew, too (`MultiScaleVQ`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from robustok.adapters.vqgan import CODES, VQGAN, ConvTokenizer, taming_renames
from robustok.runtime.renaming import Renames, State, count_numbered, sizes
from robustok.shapes import Images, Latents
from robustok.tokenizer.quantizer import MultiScale, MultiScaleVQ
from robustok.tokenizer.tokenizer import check_size

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # sides of the maps at 256 pixels
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)

SMOOTHING: Renames = (("^quantize.quant_resi.qresi_ls.*", "^quantizer.smooth.*"),)


@dataclass(frozen=True, kw_only=True)
class Codes(MultiScaleVQ):
    """The sizes of the codes of all scales; of the scales and the smoothing the weights do not tell."""

    @classmethod
    def of(cls, state: State, scales: Sequence[int], smoothing: float) -> "Codes":
        """The sizes of weights by their original names, which do not tell `scales` and `smoothing`."""
        codebook_size, width = state["quantize.embedding.weight"].shape
        smoothers = count_numbered(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.")
        return cls(
            scales=tuple(scales), codebook_size=codebook_size, width=width, smoothers=smoothers, smoothing=smoothing
        )


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

    @classmethod
    def config_from_state(
        cls, state: State, *, scales: Sequence[int] = SCALES_256, smoothing: float = 0.5
    ) -> VARTokenizerConfig:
        """Sizes of weights, which tell neither `scales` (SCALES_512 for 512 pixels) nor `smoothing`."""
        book, conv, hits = "quantize.embedding.weight", "quant_conv.weight", "quantize.ema_vocab_hit_SV"
        shape = sizes(state, book, conv, hits, "encoder.conv_in.weight", "decoder.conv_in.weight")
        return VARTokenizerConfig(
            network=VQGAN.of(state, taming_renames(count_numbered(state, r"decoder\.up\.(\d+)\.")), "taming"),
            codes=Codes.of(state, scales, smoothing),
            kernel=shape[conv][2],
            remembered=shape[hits][0],
        )

    @classmethod
    def renames(cls, config: VARTokenizerConfig) -> Renames:
        hits = ("^quantize.ema_vocab_hit_SV", "^hits")
        return (*taming_renames(len(config.network.channels)), *CODES, *SMOOTHING, hits)
