"""LlamaGen's image tokenizer (Sun et al. 2024, arXiv 2406.06525): a VQGAN with codes of 8 channels on a sphere.

`docs/models/llamagen.md` has the weights, their scores and what one might not expect. Of that, here:

- latents and codes are normalized before they are compared, and what is decoded is the normalized code;
- `quantize.codebook_used` remembers which codes were used lately while it trained; it is kept, and not used;
- each level of the decoder is stored where it is run, the coarsest first, unlike in taming-transformers;
- `post_quant_conv` is not part of `decoder`: post-training leaves it as it is.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustok.adapters.files import Layout
from robustok.adapters.tokenizer_adapter import vector_quantizer
from robustok.adapters.vqgan import CODES, TAMING, VQGAN, ConvTokenizer
from robustok.runtime.renaming import State, fuse, sizes, unfuse
from robustok.runtime.tensor_files import WRAPPERS


@dataclass(frozen=True, kw_only=True)
class LlamaGenVQConfig:
    """The sizes of a LlamaGen tokenizer; the defaults are those of VQ-16."""

    image_size: int = 256  # side of an image in pixels; the weights do not tell
    network: VQGAN = field(default_factory=VQGAN)  # encoder and decoder; VQ-8 has channels 128, 256, 256, 512
    codebook_size: int = 16384  # codes
    code_width: int = 8  # channels of a code
    remembered: int = 65536  # of the codes that were used last, what a file has of them


class LlamaGenVQ(ConvTokenizer):
    """LlamaGen's tokenizer: a `TokenizerLike`."""

    family, config_type = "llamagen-vq", LlamaGenVQConfig
    layout = Layout(entries=("model",))
    prefer = ("ema", *WRAPPERS)  # as its reconstruction script, which the scores are of
    marks = ("encoder.conv_blocks.0.res.0.conv1.weight", "quantize.embedding.weight")
    table = (
        ("conv_blocks.*", "levels.*"),
        ("levels.*.res.*", "levels.*.blocks.*"),
        ("mid", "middle"),
        *TAMING,
        *CODES,
        ("^quantize.codebook_used", "^codebook_used"),
    )

    def __init__(self, config: LlamaGenVQConfig):
        super().__init__(config, config.code_width)
        self.quantizer = vector_quantizer(config.codebook_size, config.code_width, normalized=True)
        self.register_buffer("codebook_used", torch.zeros(config.remembered))

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> LlamaGenVQConfig:
        """Sizes of weights; `image_size` may be given (256)."""
        shapes = sizes(
            state, "quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight",
            "decoder.conv_blocks.0.res.0.conv2.weight",
        )  # fmt: skip
        codes, width = shapes["quantize.embedding.weight"]
        read: dict[str, Any] = {"codebook_size": codes, "code_width": width}
        if "quantize.codebook_used" in shapes:
            read["remembered"] = shapes["quantize.codebook_used"][0]
        return LlamaGenVQConfig(**({"network": VQGAN.of(state, cls.table, "taming")} | read | fields))

    @classmethod
    def ours(cls, state: State, config: LlamaGenVQConfig) -> dict[str, Tensor]:
        return super().ours(fuse(state, ("q", "k", "v"), "qkv"), config)

    @classmethod
    def theirs(cls, state: State, config: LlamaGenVQConfig) -> dict[str, Tensor]:
        return super().theirs(unfuse(state, ("q", "k", "v"), "qkv"), config)
