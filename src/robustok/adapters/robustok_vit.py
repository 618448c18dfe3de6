"""The tokenizer of Qiu et al. 2025 (arXiv 2509.12474) as its authors released it: DINOv2 encoder and decoder, one VQ.

Weights: `main-train.pt` and `post-train.pt` of qiuk6/RobusTok on the Hugging Face hub; the code's repository
(qiuk2/RobusTok) has no licence file. Both are torch files that hold `model` and `ema` beside the state of training; as
there, `ema` is taken. They contain the frozen DINOv2 of the semantic term, which encoding and decoding do without.
With RAR-B and RAR-L (`rar_b.bin`, `rar_l.bin` there; `robustok.adapters.rar`) they are published to give gFID
1.83 and 1.60 as main training left them and 1.60 and 1.36 after post-training, not reproduced here.

What one might not expect:

- images are in [-1, 1]; only the semantic model sees them normalized as ImageNet is;
- class token, patches and latents share one table of positions, whose first row is the class token's, and the
  decoder puts the class token a second time in front of the codes;
- the released post-training also moves `quant_conv`, `post_quant_conv`, the codebook and the latent tokens. Here
  `decoder` is the tensors `decoder.*` and nothing else;
- the released semantic term compares plain dot products, and the teacher's feature passes through `quant_conv` as the
  latents do, so that it trains it;
- the released `forward` cannot run in evaluation mode; this one follows the methods that its sampling uses;
- the authors turn images to uint8 by truncating 127.5 x + 128, we round 127.5 (x + 1), which is one level off at most.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.codebook_adapter import QuantizedAdapter
from robustok.adapters.files import Layout
from robustok.adapters.renaming import Renames, State, count, sizes
from robustok.layers import Block
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Features, Images, Latents
from robustok.tokenizer.encoder import patches, to_sequence, unpatchify
from robustok.tokenizer.quantizer import VQ, VectorQuantizer
from robustok.tokenizer.tokenizer import check_size

HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}  # of DINOv2's small, base, large and giant, by their width
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]

RENAMES: Renames = (
    ("to_pixel.model", "out"),
    ("^semantic_model", "^teacher"),
    ("^encoder.model", "^encoder.transformer"),
    ("^decoder.model", "^decoder.transformer"),
    ("patch_embed.proj", "embed"),
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    ("blocks.*.attn", "blocks.*.attention"),
    ("blocks.*.ls1", "blocks.*.scale1"),
    ("blocks.*.ls2", "blocks.*.scale2"),
    ("latent_tokens", "latents"),
    ("lvl_embed", "kind"),
    ("lvl1LC", "kinds"),
    ("^quant_conv", "^to_code"),
    ("^post_quant_conv", "^from_code"),
    ("^quantize.embedding.weight", "^quantizer.embedding"),
    ("^quantize.ema_vocab_hit_SV", "^hits"),
)


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The sizes of a vision transformer."""

    width: int = 768  # channels
    depth: int = 12  # blocks
    heads: int = 12  # attention heads of a block
    hidden: int = 3072  # width of a block's MLP


@dataclass(frozen=True, kw_only=True)
class RobusTokConfig:
    """The sizes of a released tokenizer; the defaults are those of the published one."""

    image_size: int = 256  # side of an image in pixels
    patch: int = 16  # side of a patch in pixels; there are as many latents as patches
    encoder: Transformer = Transformer()  # image -> latents
    decoder: Transformer = Transformer()  # codes -> image
    semantic: Transformer | None = Transformer()  # the teacher in the file; None: the file has none
    codebook_size: int = 4096  # codes
    code_width: int = 64  # channels of a code
    normalized: bool = True  # latents and codes lie on the unit sphere (codebook_l2_norm)


class DINOv2(nn.Module):
    """A vision transformer with a class token (Oquab et al. 2024, arXiv 2304.07193). The decoder's sees no images."""

    def __init__(self, size: Transformer, image_size: int, patch: int, *, sees: bool = True):
        super().__init__()
        n, c = patches(image_size, patch) ** 2, size.width
        self.embed = nn.Conv2d(3, c, patch, patch) if sees else None
        self.class_token = nn.Parameter(torch.zeros(1, 1, c))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + n, c))
        self.blocks = nn.Sequential(
            *(Block(c, size.heads, size.hidden / c, layer_scale=1e-5) for _ in range(size.depth))
        )
        self.norm = nn.LayerNorm(c, eps=1e-6)

    def placed(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n+1 c"]:
        """The class token and after it one token for each place, positions added."""
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions

    def patches(self, images: Images) -> Float[Tensor, "b l c"]:
        """What the blocks are given of images."""
        assert self.embed is not None, "a transformer that sees no images"
        return self.placed(to_sequence(self.embed(images)))

    def forward(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        return self.norm(self.blocks(x))


class Encoder(nn.Module):
    """[class token, patches] and latent tokens attend to each other; the latents come out."""

    kinds: Tensor  # (1, 1 + 2 n) 0: of the image, 1: latent

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        n, c = patches(config.image_size, config.patch) ** 2, config.encoder.width
        self.transformer = DINOv2(config.encoder, config.image_size, config.patch)
        self.latents = nn.Parameter(1e-6 * torch.randn(1, n, c))
        self.kind = nn.Embedding(2, c)
        self.register_buffer("kinds", torch.tensor([[0] * (1 + n) + [1] * n]))

    def forward(self, images: Images) -> Float[Tensor, "b n c"]:
        latents = (self.latents + self.transformer.positions[:, 1:]).expand(len(images), -1, -1)
        x = torch.cat([self.transformer.patches(images), latents], dim=1) + self.kind(self.kinds)
        return self.transformer(x)[:, -self.latents.shape[1] :]


class Decoder(nn.Module):
    """[class token, mask tokens] gather the image from [class token, codes]."""

    kinds: Tensor  # (1, 2 + 2 n) 0: of the image, 1: of the codes

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        n, c = patches(config.image_size, config.patch) ** 2, config.decoder.width
        self.image_size, self.patch = config.image_size, config.patch
        self.transformer = DINOv2(config.decoder, config.image_size, config.patch, sees=False)
        self.mask_token = nn.Parameter(1e-6 * torch.randn(1, 1, c))
        self.kind = nn.Embedding(2, c)
        self.register_buffer("kinds", torch.tensor([[0] * (1 + n) + [1] * (1 + n)]))
        self.out = nn.Linear(c, 3 * config.patch**2)

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance reconstruction and adversarial loss."""
        return self.out.weight

    def forward(self, codes: Float[Tensor, "b n c"]) -> Images:
        masked = self.transformer.placed(self.mask_token.expand_as(codes))
        x = torch.cat([masked, self.transformer.placed(codes)], dim=1) + self.kind(self.kinds)
        x = self.transformer(x)[:, 1 : 1 + codes.shape[1]]
        return unpatchify(self.out(x), self.patch, self.image_size)


class RobusTokViT(QuantizedAdapter):
    """A released tokenizer: an `AnyTokenizer`."""

    family, kind, config_type = "robustok", "tokenizer", RobusTokConfig
    published_layout = Layout(entries=("ema", "model"))
    prefer = ("ema", *WRAPPERS)
    config: RobusTokConfig

    def __init__(self, config: RobusTokConfig):
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.tokens_per_image = patches(config.image_size, config.patch) ** 2
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.to_code = nn.Conv2d(config.encoder.width, config.code_width, 1)
        self.from_code = nn.Conv2d(config.code_width, config.decoder.width, 1)
        self.quantizer = VectorQuantizer(
            VQ(codebook_size=config.codebook_size, width=config.code_width, normalized=config.normalized)
        )
        self.register_buffer("hits", torch.zeros(config.codebook_size))  # how often codes were used in training
        self.teacher = None
        if config.semantic is not None:
            self.teacher = DINOv2(config.semantic, config.image_size, config.patch).requires_grad_(False)

    def encode(self, images: Images) -> Latents:
        check_size(images, self.image_size)
        return pointwise(self.to_code, self.encoder(images))

    def decode(self, codes: Latents) -> Images:
        """Images, not clamped."""
        return self.decoder(pointwise(self.from_code, codes))

    def fingerprint(self) -> str:
        """A hash of what decides the tokens: encoder, `quant_conv` and codebook."""
        ours = ("encoder.", "to_code.", "quantizer.")
        weights = {name: w for name, w in self.state_dict().items() if name.startswith(ours)}
        return fingerprint(weights | {"normalized": torch.tensor(self.config.normalized)})

    def semantic_features(self, images: Images) -> Features:
        """The class token of the teacher in the file. Raises ValueError when the file had none."""
        if self.teacher is None:
            raise ValueError("this file has no semantic_model.*; load main-train.pt or post-train.pt as published")
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.teacher(self.teacher.patches(((images + 1) / 2 - mean) / std))[:, 0]

    @staticmethod
    def matches(state: State) -> bool:
        needed = {"encoder.latent_tokens", "encoder.lvl_embed.weight", "decoder.lvl_embed.weight"}
        return needed | {"quantize.embedding.weight"} <= state.keys()

    @classmethod
    def config_from_state(cls, state: State, *, heads: int | None = None, normalized: bool = True) -> RobusTokConfig:
        """Of these weights, which tell neither the `heads` of an unusual width nor whether codes are `normalized`."""
        embed, latents, book = (
            "encoder.model.patch_embed.proj.weight",
            "encoder.latent_tokens",
            "quantize.embedding.weight",
        )
        shape = sizes(state, embed, latents, book)
        patch, side = shape[embed][2], math.isqrt(shape[latents][1])
        return RobusTokConfig(
            image_size=side * patch,
            patch=patch,
            encoder=_transformer(state, "encoder.model", heads),
            decoder=_transformer(state, "decoder.model", heads),
            semantic=_transformer(state, "semantic_model", heads) if "semantic_model.cls_token" in state else None,
            codebook_size=shape[book][0],
            code_width=shape[book][1],
            normalized=normalized,
        )

    @classmethod
    def renames(cls, config: RobusTokConfig) -> Renames:
        return RENAMES


def _transformer(state: State, part: str, heads: int | None) -> Transformer:
    """The sizes of one of the transformers in a file."""
    token, hidden = f"{part}.cls_token", f"{part}.blocks.0.mlp.fc1.weight"
    shape = sizes(state, token, hidden)
    width = shape[token][2]
    if heads is None and width not in HEADS:
        raise ValueError(f"weights {width} wide do not tell their attention heads; pass heads, a divisor of {width}")
    depth = count(state, rf"{re.escape(part)}\.blocks\.(\d+)\.")
    return Transformer(width=width, depth=depth, heads=heads or HEADS[width], hidden=shape[hidden][0])


def pointwise(conv: nn.Conv2d, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
    """A convolution of single pixels, applied to the last axis."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)
