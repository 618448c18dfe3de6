"""The MaskGIT-VQGAN (Chang et al. 2022, arXiv 2202.04200; in PyTorch by Besnier et al.), RAR's first tokenizer.

`docs/models/maskgit-rar.md` has the weights and what one might not expect. Of that, here:

- the original takes and gives images in [0, 1], and clamps; here they are in [-1, 1] and not clamped, as everywhere;
- codes are compared and decoded as they are, and no convolution stands between them and encoder or decoder;
- where a residual block changes the number of channels, its input is not added (`robustok.adapters.vqgan`).
"""

from dataclasses import dataclass, field
from typing import Any

from robustok.adapters.tokenizer_adapter import vector_quantizer
from robustok.adapters.vqgan import CODES, VQGAN, ConvTokenizer, maskgit_renames
from robustok.runtime.renaming import Renames, State, count_numbered, sizes
from robustok.shapes import Images, Latents


@dataclass(frozen=True, kw_only=True)
class MaskGITVQGANConfig:
    """The sizes of a MaskGIT-VQGAN; the defaults are those of the published one."""

    image_size: int = 256  # side of an image in pixels; the weights do not tell
    network: VQGAN = field(default_factory=lambda: VQGAN(dialect="maskgit"))  # its latent is the width of a code
    codebook_size: int = 1024  # codes


class MaskGITVQGAN(ConvTokenizer):
    """The MaskGIT-VQGAN: a `TokenizerLike`."""

    family, config_type = "maskgit-vqgan", MaskGITVQGANConfig
    marks = ("encoder.down.0.block.0.conv1.weight", "decoder.mid.0.conv1.weight", "quantize.embedding.weight")

    def __init__(self, config: MaskGITVQGANConfig):
        super().__init__(config)
        self.quantizer = vector_quantizer(config.codebook_size, config.network.latent, normalized=False)

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> MaskGITVQGANConfig:
        """Sizes of weights; `image_size` may be given (256)."""
        levels = count_numbered(state, r"decoder\.up\.(\d+)\.")
        ups = (f"decoder.up.{level}.block.0.conv2.weight" for level in range(levels))
        shapes = sizes(state, "quantize.embedding.weight", "decoder.conv_in.weight", *ups)
        read: dict[str, Any] = {
            "network": VQGAN.of(state, maskgit_renames(levels), "maskgit"),
            "codebook_size": shapes["quantize.embedding.weight"][0],
        }
        return MaskGITVQGANConfig(**(read | fields))

    @classmethod
    def renames(cls, config: MaskGITVQGANConfig) -> Renames:
        return (*maskgit_renames(len(config.network.channels)), *CODES)

    def encode(self, images: Images) -> Latents:
        return super().encode((images + 1) / 2)

    def decode(self, codes: Latents) -> Images:
        return 2 * super().decode(codes) - 1
