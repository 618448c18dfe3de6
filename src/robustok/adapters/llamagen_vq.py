"""LlamaGen's image tokenizer (Sun et al. 2024, arXiv 2406.06525): a VQGAN with codes of 8 channels on a sphere.

Weights under the MIT licence on the Hugging Face hub, torch files with the key `model`; where a file of its training
also holds `ema`, that is taken, as by its authors' reconstruction script:

    file                                                 side  codes  rFID
    FoundationVision/LlamaGen:vq_ds16_c2i.pt           h / 16  16384  2.19
    FoundationVision/LlamaGen:vq_ds8_c2i.pt             h / 8  16384  0.59
    peizesun/llamagen_t2i:vq_ds16_t2i.pt               h / 16  16384

The scores are published, not reproduced here. What one might not expect:

- images are in [-1, 1], and nothing clamps what comes out;
- latents and codes are normalised before they are compared, and what is decoded is the normalised code;
- `quantize.codebook_used` remembers which codes were used lately while it trained; it is kept, and not used;
- each level of the decoder is stored where it is run, the coarsest first, unlike in taming-transformers;
- `post_quant_conv` is not part of `decoder`: post-training leaves it as it is.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustok.adapters.codebook_adapter import CodebookAdapter
from robustok.adapters.files import Layout
from robustok.adapters.renaming import Renames, State, fuse, renamed, sizes, unfuse
from robustok.adapters.vqgan import TAMING, VQGAN, VQGANDecoder, VQGANEncoder
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import patches, to_map, to_sequence
from robustok.tokenizer.quantizer import VQ, VectorQuantizer

RENAMES: Renames = (
    ("conv_blocks.*", "levels.*"),
    ("levels.*.res.*", "levels.*.blocks.*"),
    ("mid", "middle"),
    *TAMING,
    ("^quant_conv", "^to_code"),
    ("^post_quant_conv", "^from_code"),
    ("^quantize.embedding.weight", "^quantizer.embedding"),
    ("^quantize.codebook_used", "^codebook_used"),
)


@dataclass(frozen=True, kw_only=True)
class LlamaGenVQConfig:
    """The sizes of a LlamaGen tokenizer; the defaults are those of VQ-16."""

    image_size: int = 256  # side of an image in pixels; the weights do not tell
    network: VQGAN = field(default_factory=VQGAN)  # encoder and decoder; VQ-8 has channels 128, 256, 256, 512
    codebook_size: int = 16384  # codes
    code_width: int = 8  # channels of a code
    remembered: int = 65536  # of the codes that were used last, what a file has of them


class LlamaGenVQ(CodebookAdapter):
    """LlamaGen's tokenizer: a `TokenizerLike`."""

    family = "llamagen-vq"
    kind = "tokenizer"
    config_type = LlamaGenVQConfig
    published_layout = Layout(entries=("model",))
    prefer = ("ema", *WRAPPERS)  # as its reconstruction script, which the scores are of
    config: LlamaGenVQConfig
    decides: ClassVar[tuple[str, ...]] = ("encoder.", "to_code.", "quantizer.")  # the tokens

    def __init__(self, config: LlamaGenVQConfig):
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.tokens_per_image = patches(config.image_size, config.network.stride) ** 2
        self.encoder, self.decoder = VQGANEncoder(config.network), VQGANDecoder(config.network)
        self.to_code = nn.Conv2d(config.network.latent, config.code_width, 1)
        self.from_code = nn.Conv2d(config.code_width, config.network.latent, 1)
        self.quantizer = VectorQuantizer(
            VQ(codebook_size=config.codebook_size, width=config.code_width, normalized=True)
        )
        self.register_buffer("codebook_used", torch.zeros(config.remembered))

    @staticmethod
    def matches(state: State) -> bool:
        return "encoder.conv_blocks.0.res.0.conv1.weight" in state and "quantize.embedding.weight" in state

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> LlamaGenVQConfig:
        """Sizes of weights; `image_size` may be given (256)."""
        shapes = sizes(
            state, "quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight",
            "decoder.conv_blocks.0.res.0.conv2.weight",
        )  # fmt: skip
        codes, width = shapes["quantize.embedding.weight"]
        network = VQGAN.of({renamed(name, RENAMES): weight for name, weight in state.items()}, "taming")
        read: dict[str, Any] = {"network": network, "codebook_size": codes, "code_width": width}
        if "quantize.codebook_used" in shapes:
            read["remembered"] = shapes["quantize.codebook_used"][0]
        return LlamaGenVQConfig(**(read | fields))

    @classmethod
    def renames(cls, config: LlamaGenVQConfig) -> Renames:
        return RENAMES

    @classmethod
    def ours(cls, state: State, config: LlamaGenVQConfig) -> dict[str, Tensor]:
        return super().ours(fuse(state, ("q", "k", "v"), "qkv"), config)

    @classmethod
    def theirs(cls, state: State, config: LlamaGenVQConfig) -> dict[str, Tensor]:
        return super().theirs(unfuse(state, ("q", "k", "v"), "qkv"), config)

    def encode(self, images: Images) -> Latents:
        return to_sequence(self.to_code(self.encoder(images)))

    def decode(self, codes: Latents) -> Images:
        return self.decoder(self.from_code(to_map(codes)))

    def fingerprint(self) -> str:
        """A hash of what decides the tokens. The decoder may change under it."""
        return fingerprint({name: w for name, w in self.state_dict().items() if name.startswith(self.decides)})
