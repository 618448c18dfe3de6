"""The MaskGIT-VQGAN (Chang et al. 2022, arXiv 2202.04200; in PyTorch by Besnier et al.), RAR's first tokenizer.

Weights under the Apache-2.0 licence on the Hugging Face hub, a flat torch file; 256 tokens of 1024 codes at 256 pixels:

    fun-research/TiTok:maskgit-vqgan-imagenet-f16-256.bin

What one might not expect:

- the original takes and gives images in [0, 1], and clamps; here they are in [-1, 1] and not clamped, as everywhere;
- codes are compared and decoded as they are, and no convolution stands between them and encoder or decoder;
- where a residual block changes the number of channels, its input is not added (`robustok.adapters.vqgan`).
"""

from dataclasses import dataclass, field
from typing import Any

from robustok.adapters.codebook_adapter import CodebookAdapter
from robustok.adapters.renaming import Renames, State, count, renamed, sizes
from robustok.adapters.vqgan import VQGAN, VQGANDecoder, VQGANEncoder, maskgit_renames
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.pretrained import without_decoder
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import patches, to_map, to_sequence
from robustok.tokenizer.quantizer import VQ, VectorQuantizer


@dataclass(frozen=True, kw_only=True)
class MaskGITVQGANConfig:
    """The sizes of a MaskGIT-VQGAN; the defaults are those of the published one."""

    image_size: int = 256  # side of an image in pixels; the weights do not tell
    network: VQGAN = field(default_factory=lambda: VQGAN(dialect="maskgit"))  # its latent is the width of a code
    codebook_size: int = 1024  # codes


class MaskGITVQGAN(CodebookAdapter):
    """The MaskGIT-VQGAN: a `TokenizerLike`."""

    family = "maskgit-vqgan"
    kind = "tokenizer"
    config_type = MaskGITVQGANConfig
    config: MaskGITVQGANConfig

    def __init__(self, config: MaskGITVQGANConfig):
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.tokens_per_image = patches(config.image_size, config.network.stride) ** 2
        self.encoder, self.decoder = VQGANEncoder(config.network), VQGANDecoder(config.network)
        self.quantizer = VectorQuantizer(
            VQ(codebook_size=config.codebook_size, width=config.network.latent, normalized=False)
        )

    @staticmethod
    def matches(state: State) -> bool:
        names = ("encoder.down.0.block.0.conv1.weight", "decoder.mid.0.conv1.weight", "quantize.embedding.weight")
        return all(name in state for name in names)

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> MaskGITVQGANConfig:
        """Sizes of weights; `image_size` may be given (256)."""
        levels = count(state, r"decoder\.up\.(\d+)\.")
        ups = (f"decoder.up.{level}.block.0.conv2.weight" for level in range(levels))
        shapes = sizes(state, "quantize.embedding.weight", "decoder.conv_in.weight", *ups)
        ours = {renamed(name, maskgit_renames(levels)): weight for name, weight in state.items()}
        read: dict[str, Any] = {
            "network": VQGAN.of(ours, "maskgit"),
            "codebook_size": shapes["quantize.embedding.weight"][0],
        }
        return MaskGITVQGANConfig(**(read | fields))

    @classmethod
    def renames(cls, config: MaskGITVQGANConfig) -> Renames:
        own = ("^quantize.embedding.weight", "^quantizer.embedding")
        return (*maskgit_renames(len(config.network.channels)), own)

    def encode(self, images: Images) -> Latents:
        return to_sequence(self.encoder((images + 1) / 2))

    def decode(self, codes: Latents) -> Images:
        return 2 * self.decoder(to_map(codes)) - 1

    def fingerprint(self) -> str:
        """A hash of what decides the tokens. The decoder may change under it."""
        return fingerprint(without_decoder(self))
