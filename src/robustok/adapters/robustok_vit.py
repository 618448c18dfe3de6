"""The tokenizer of Qiu et al. 2025 (arXiv 2509.12474) as its authors released it: DINOv2 encoder and decoder, one VQ.

`docs/models/robustok.md` has the weights, which hold `model` and `ema` beside the state of training (as there, `ema` is
taken) and the frozen DINOv2 of the semantic term, which encoding and decoding do without. What one might not expect:

- images are in [-1, 1]; only the semantic model sees them normalized as ImageNet is;
- class token, patches and latents share one table of positions, whose first row is the class token's, and the
  decoder puts the class token a second time in front of the codes;
- the released post-training also moves `quant_conv`, `post_quant_conv`, the codebook and the latent tokens. Here
  `decoder` is the tensors `decoder.*` and nothing else;
- the released `forward` cannot run in evaluation mode; this one follows the methods that its sampling uses.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.files import Layout
from robustok.adapters.tokenizer_adapter import CodebookAdapter, vector_quantizer
from robustok.adapters.vit import BASE, Transformer, ViTTrunk, transformer_of
from robustok.adapters.vqgan import CODES
from robustok.backbones.dino import MEAN, PUBLISHED_NAMES, STD
from robustok.runtime.renaming import State, sizes
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Features, Images, Latents
from robustok.tokenizer.encoder import patches, unpatchify


@dataclass(frozen=True, kw_only=True)
class RobusTokConfig:
    """The sizes of a released tokenizer; the defaults are those of the published one."""

    image_size: int = 256  # side of an image in pixels
    patch: int = 16  # side of a patch in pixels; there are as many latents as patches
    encoder: Transformer = BASE  # image -> latents
    decoder: Transformer = BASE  # codes -> image
    semantic: Transformer | None = BASE  # the teacher in the file; None: the file has none
    codebook_size: int = 4096  # codes
    code_width: int = 64  # channels of a code
    normalized: bool = True  # latents and codes lie on the unit sphere (codebook_l2_norm)


class RobusTokEncoder(nn.Module):
    """[class token, patches] and latent tokens attend to each other; the latents come out."""

    kinds: Tensor  # (1, 1 + 2 n) 0: of the image, 1: latent

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        n, c = patches(config.image_size, config.patch) ** 2, config.encoder.width
        self.transformer = ViTTrunk(config.encoder, config.image_size, config.patch)
        self.latents = nn.Parameter(1e-6 * torch.randn(1, n, c))
        self.kind = nn.Embedding(2, c)
        self.register_buffer("kinds", torch.tensor([[0] * (1 + n) + [1] * n]))

    def forward(self, images: Images) -> Float[Tensor, "b n c"]:
        latents = (self.latents + self.transformer.positions[:, 1:]).expand(len(images), -1, -1)
        x = self.transformer.placed(self.transformer.embedded(images))
        x = torch.cat([x, latents], dim=1) + self.kind(self.kinds)
        return self.transformer(x)[:, -self.latents.shape[1] :]


class RobusTokDecoder(nn.Module):
    """[class token, mask tokens] gather the image from [class token, codes]."""

    kinds: Tensor  # (1, 2 + 2 n) 0: of the image, 1: of the codes

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        n, c = patches(config.image_size, config.patch) ** 2, config.decoder.width
        self.image_size, self.patch = config.image_size, config.patch
        self.transformer = ViTTrunk(config.decoder, config.image_size, config.patch, sees=False)
        self.mask_token = nn.Parameter(1e-6 * torch.randn(1, 1, c))
        self.kind = nn.Embedding(2, c)
        self.register_buffer("kinds", torch.tensor([[0] * (1 + n) + [1] * (1 + n)]))
        self.out = nn.Linear(c, 3 * config.patch**2)

    def forward(self, codes: Float[Tensor, "b n c"]) -> Images:
        masked = self.transformer.placed(self.mask_token.expand_as(codes))
        x = torch.cat([masked, self.transformer.placed(codes)], dim=1) + self.kind(self.kinds)
        x = self.transformer(x)[:, 1 : 1 + codes.shape[1]]
        return unpatchify(self.out(x), self.patch, self.image_size)


class RobusTokViT(CodebookAdapter):
    """A released tokenizer: a `TokenizerLike`."""

    family, config_type = "robustok", RobusTokConfig
    layout = Layout(entries=("ema", "model"))
    prefer = ("ema", *WRAPPERS)
    marks = (
        "encoder.latent_tokens",
        "encoder.lvl_embed.weight",
        "decoder.lvl_embed.weight",
        "quantize.embedding.weight",
    )
    table = (
        ("to_pixel.model", "out"),
        ("^semantic_model", "^teacher"),
        ("^encoder.model", "^encoder.transformer"),
        ("^decoder.model", "^decoder.transformer"),
        *PUBLISHED_NAMES,
        ("latent_tokens", "latents"),
        ("lvl_embed", "kind"),
        ("lvl1LC", "kinds"),
        *CODES,
        ("^quantize.ema_vocab_hit_SV", "^hits"),
    )
    decider_fields = ("normalized",)
    config: RobusTokConfig

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.tokens_per_image = patches(config.image_size, config.patch) ** 2
        self.encoder, self.decoder = RobusTokEncoder(config), RobusTokDecoder(config)
        self.to_code = nn.Conv2d(config.encoder.width, config.code_width, 1)
        self.from_code = nn.Conv2d(config.code_width, config.decoder.width, 1)
        self.quantizer = vector_quantizer(config.codebook_size, config.code_width, normalized=config.normalized)
        self.register_buffer("hits", torch.zeros(config.codebook_size))  # how often codes were used in training
        self.teacher = None
        if config.semantic is not None:
            self.teacher = ViTTrunk(config.semantic, config.image_size, config.patch)
            self.teacher.requires_grad_(False)

    def encode(self, images: Images) -> Latents:
        return pointwise(self.to_code, super().encode(images))

    def decode(self, codes: Latents) -> Images:
        return super().decode(pointwise(self.from_code, codes))

    def semantic_features(self, images: Images) -> Features:
        """The class token of the teacher in the file. Raises ValueError when the file had none."""
        if self.teacher is None:
            raise ValueError("this file has no semantic_model.*; load main-train.pt or post-train.pt as published")
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        x = self.teacher.embedded(((images + 1) / 2 - mean) / std)
        return self.teacher(self.teacher.placed(x))[:, 0]

    @classmethod
    def config_from_state(cls, state: State, *, heads: int | None = None, normalized: bool = True) -> RobusTokConfig:
        """Sizes of weights, which tell neither the `heads` of an unusual width nor if codes are `normalized`."""
        book, latents = "quantize.embedding.weight", "encoder.latent_tokens"
        embed = "encoder.model.patch_embed.proj.weight"
        shape = sizes(state, embed, latents, book)
        patch, side = shape[embed][2], math.isqrt(shape[latents][1])
        return RobusTokConfig(
            image_size=side * patch,
            patch=patch,
            encoder=transformer_of(state, "encoder.model", heads),
            decoder=transformer_of(state, "decoder.model", heads),
            semantic=transformer_of(state, "semantic_model", heads) if "semantic_model.cls_token" in state else None,
            codebook_size=shape[book][0],
            code_width=shape[book][1],
            normalized=normalized,
        )


def pointwise(conv: nn.Conv2d, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
    """A convolution of single pixels, applied to the last axis."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)
