"""TiTok (Yu et al. 2024, arXiv 2406.07550): an image as a short sequence of tokens that belong to no place.

Weights, all on the Hugging Face hub (`model.safetensors`, flat), the code that made them under Apache-2.0, the
authors calling the models for research only:

    file                                             tokens  codes  rFID  gFID
    yucornetto/tokenizer_titok_l32_imagenet              32   4096  2.21  2.77
    yucornetto/tokenizer_titok_b64_imagenet              64   4096  1.70  2.48
    yucornetto/tokenizer_titok_s128_imagenet            128   4096  1.71  1.97
    yucornetto/tokenizer_titok_bl64_vq8k_imagenet        64   8192  2.06
    yucornetto/tokenizer_titok_bl128_vq8k_imagenet      128   8192  1.49
    yucornetto/tokenizer_titok_sl256_vq8k_imagenet      256   8192  1.03

The scores are published, not reproduced here; those of generation are of the authors' masked generators, which are
not autoregressive and have no adapter. The `vae` tokenizers of the same family have no codebook and are refused.

The first three are "legacy": their decoder predicts the code of a MaskGIT-VQGAN at each place, and that network's
decoder makes the image from the expected code. The others make pixels themselves. What one might not expect:

- the original takes and gives images in [0, 1]; the ones here are in [-1, 1], as everywhere;
- a legacy encoder reads the memory of its latents (n, c) as if it were (c, n) before it projects them, so that
  every latent is a mixture of all;
- codes are normalized in legacy files only, and nothing in a file says so;
- `decoder` is all that makes the image of codes, as the authors' own second stage has it: the tensors `decoder.*` and,
  in a legacy file, `pixel_decoder.*`. Between the two, `pixel_quantize.*` stays as it is: a buffer, not trained.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.codebook_adapter import CodebookAdapter
from robustok.adapters.renaming import Renames, State, count, renamed, sizes
from robustok.adapters.vit import Transformer, VisionTransformer, transformer_of
from robustok.adapters.vqgan import VQGAN, VQGANDecoder, maskgit_renames
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.pretrained import without_decoder
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import to_map, to_sequence, unpatchify
from robustok.tokenizer.quantizer import VQ, VectorQuantizer
from robustok.tokenizer.tokenizer import check_size

PIXELS = "decoder.head.pixels"  # our name of the MaskGIT-VQGAN's decoder


LARGE = Transformer(width=1024, depth=24, heads=16, hidden=4096)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The MaskGIT-VQGAN by which a legacy decoder makes images."""

    codebook_size: int = 1024  # its codes
    hidden: int = 2048  # width of the MLP that predicts them
    network: VQGAN = field(default_factory=lambda: VQGAN(dialect="maskgit"))  # the sizes of what decodes them


@dataclass(frozen=True, kw_only=True)
class TiTokConfig:
    """The sizes of a TiTok; the defaults are those of L-32."""

    image_size: int = 256  # side of an image in pixels
    tokens: int = 32  # of an image
    encoder: Transformer = LARGE  # image -> latents
    decoder: Transformer = LARGE  # codes -> image, or what the proxy makes an image of
    patch: int = 16  # side in pixels of the patches that the encoder reads
    decoder_patch: int = 16  # side in pixels of what the decoder makes of a place
    codebook_size: int = 4096  # codes
    code_width: int = 12  # channels of a code
    normalized: bool = True  # latents and codes lie on the unit sphere (use_l2_norm)
    proxy: Proxy | None = field(default_factory=Proxy)  # of a legacy file; None: the decoder makes pixels


def _vision(size: Transformer, config: TiTokConfig, patch: int, *, sees: bool) -> VisionTransformer:
    return VisionTransformer(
        size,
        config.image_size,
        patch,
        sees=sees,
        latents=config.tokens,
        rank=2,
        layer_scale=False,
        norm_in=True,
        eps=1e-5,
    )


class Encoder(nn.Module):
    """Latent tokens gather what there is to say of an image."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        c = config.encoder.width
        self.legacy = config.proxy is not None
        self.latents = nn.Parameter(c**-0.5 * torch.randn(config.tokens, c))
        self.vision = _vision(config.encoder, config, config.patch, sees=True)
        self.out = nn.Conv2d(c, config.code_width, 1)

    def forward(self, images: Images) -> Latents:
        latents = self.latents.expand(len(images), -1, -1)
        x = self.vision.beside(self.vision.placed(self.vision.embedded((images + 1) / 2)), latents)
        x = self.vision(x)[:, -latents.shape[1] :]
        b, n, c = x.shape
        x = x.reshape(b, c, n, 1) if self.legacy else x.transpose(1, 2).unsqueeze(3)
        return to_sequence(self.out(x))


class Direct(nn.Module):
    """Pixels of each patch, then a convolution among pixels."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.patch, self.image_size = config.decoder_patch, config.image_size
        self.squares = nn.Conv2d(config.decoder.width, 3 * self.patch**2, 1)
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        return self.smooth.weight

    def forward(self, x: Float[Tensor, "b c _ _"]) -> Images:
        return self.smooth(unpatchify(to_sequence(self.squares(x)), self.patch, self.image_size))


class Proxied(nn.Module):
    """The likely codes of a MaskGIT-VQGAN at each place; its decoder makes the image of their mean."""

    codes: Tensor  # (k, latent)

    def __init__(self, width: int, proxy: Proxy):
        super().__init__()
        self.hidden = nn.Conv2d(width, proxy.hidden, 1)
        self.logits = nn.Conv2d(proxy.hidden, proxy.codebook_size, 1)
        self.register_buffer("codes", torch.zeros(proxy.codebook_size, proxy.network.latent))
        self.pixels = VQGANDecoder(proxy.network)

    @property
    def last_layer(self) -> Tensor:
        return self.pixels.last_layer

    def forward(self, x: Float[Tensor, "b c _ _"]) -> Images:
        likely = self.logits(torch.tanh(self.hidden(x))).softmax(dim=1)
        return self.pixels(torch.einsum("bkhw,kd->bdhw", likely, self.codes))


class Decoder(nn.Module):
    """Mask tokens in the places of the patches gather the image from the codes."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        c, proxy = config.decoder.width, config.proxy
        self.embed = nn.Linear(config.code_width, c)
        self.mask_token = nn.Parameter(c**-0.5 * torch.randn(1, 1, c))
        self.vision = _vision(config.decoder, config, config.decoder_patch, sees=False)
        self.head = Direct(config) if proxy is None else Proxied(c, proxy)

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance reconstruction and adversarial loss."""
        return self.head.last_layer

    def forward(self, codes: Latents) -> Images:
        x = self.vision.placed(self.mask_token.expand(len(codes), self.vision.n, -1))
        x = self.vision(self.vision.beside(x, self.embed(codes)))
        return 2 * self.head(to_map(x[:, 1 : 1 + self.vision.n])) - 1


class TiTok(CodebookAdapter):
    """A TiTok with a codebook: a `TokenizerLike`."""

    family, kind, config_type = "titok", "tokenizer", TiTokConfig
    config: TiTokConfig

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.config, self.image_size, self.tokens_per_image = config, config.image_size, config.tokens
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = VectorQuantizer(
            VQ(codebook_size=config.codebook_size, width=config.code_width, normalized=config.normalized)
        )

    def encode(self, images: Images) -> Latents:
        """Latents (b n d) of images in [-1, 1]; there is no order among them."""
        check_size(images, self.image_size)
        return self.encoder(images)

    def decode(self, codes: Latents) -> Images:
        """Images in [-1, 1], not clamped."""
        return self.decoder(codes)

    def fingerprint(self) -> str:
        """A hash of what decides the tokens. The decoder may change under it."""
        return fingerprint(without_decoder(self) | {"normalized": torch.tensor(self.config.normalized)})

    @staticmethod
    def matches(state: State) -> bool:
        return {"latent_tokens", "decoder.decoder_embed.weight", "quantize.embedding.weight"} <= state.keys()

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, normalized: bool | None = None
    ) -> TiTokConfig:
        """Of these weights. They tell neither the `heads` of an unusual width nor whether codes are `normalized`, which
        is taken for granted in legacy files and only there.
        """
        embed, positions, book = (
            "encoder.patch_embed.weight",
            "encoder.positional_embedding",
            "quantize.embedding.weight",
        )
        shape = sizes(state, "latent_tokens", embed, positions, book, "decoder.positional_embedding")
        legacy, patch = "decoder.ffn.2.weight" in state, shape[embed][2]
        image_size = math.isqrt(shape[positions][0] - 1) * patch
        return TiTokConfig(
            image_size=image_size,
            tokens=shape["latent_tokens"][0],
            encoder=_transformer(state, "encoder", heads),
            decoder=_transformer(state, "decoder", heads),
            patch=patch,
            decoder_patch=image_size // math.isqrt(shape["decoder.positional_embedding"][0] - 1),
            codebook_size=shape[book][0],
            code_width=shape[book][1],
            normalized=legacy if normalized is None else normalized,
            proxy=_proxy(state) if legacy else None,
        )

    @classmethod
    def saved_config(cls, plain: dict[str, Any]) -> dict[str, Any]:
        """Patches were fields of encoder and decoder up to version 0.1."""
        parts = {"encoder": "patch", "decoder": "decoder_patch"}
        for part, patch in parts.items():
            match plain.get(part):
                case {"patch": int(side), **rest}:
                    plain = plain | {part: rest, patch: side}
        return plain

    @classmethod
    def renames(cls, config: TiTokConfig) -> Renames:
        return _renames(0 if config.proxy is None else len(config.proxy.network.channels))


def _renames(levels: int) -> Renames:
    """`levels` of the pixel decoder; without one the decoder's last two layers have other names of ours."""
    direct: Renames = (("^decoder.ffn.0", "^decoder.head.squares"), ("^decoder.conv_out", "^decoder.head.smooth"))
    proxied: Renames = (
        ("^decoder.ffn.0", "^decoder.head.hidden"),
        ("^decoder.ffn.2", "^decoder.head.logits"),
        ("^pixel_quantize.embedding.weight", "^decoder.head.codes"),
        ("^pixel_decoder", f"^{PIXELS}"),
        *maskgit_renames(levels, PIXELS),
    )
    vision = (
        ("class_embedding", "class_token"),
        ("positional_embedding", "positions"),
        ("latent_token_positional_embedding", "latent_positions"),
        ("ln_pre", "norm_in"),
        ("ln_post", "norm"),
        ("transformer", "blocks"),
    )
    return (
        *(proxied if levels else direct),
        *((f"^{part}.{a}", f"^{part}.vision.{b}") for part in ("encoder", "decoder") for a, b in vision),
        ("^latent_tokens", "^encoder.latents"),
        ("^encoder.patch_embed", "^encoder.vision.embed"),
        ("^encoder.conv_out", "^encoder.out"),
        ("^decoder.decoder_embed", "^decoder.embed"),
        ("^quantize.embedding.weight", "^quantizer.embedding"),
        ("vision.blocks.*.ln_1", "vision.blocks.*.norm1"),
        ("vision.blocks.*.ln_2", "vision.blocks.*.norm2"),
        ("vision.blocks.*.attn.in_proj_weight", "vision.blocks.*.attention.qkv.weight"),
        ("vision.blocks.*.attn.in_proj_bias", "vision.blocks.*.attention.qkv.bias"),
        ("vision.blocks.*.attn.out_proj", "vision.blocks.*.attention.proj"),
        ("vision.blocks.*.mlp.c_fc", "vision.blocks.*.mlp.fc1"),
        ("vision.blocks.*.mlp.c_proj", "vision.blocks.*.mlp.fc2"),
    )


def _transformer(state: State, part: str, heads: int | None) -> Transformer:
    """The sizes of encoder or decoder."""
    return transformer_of(state, f"{part}.transformer", f"{part}.positional_embedding", "mlp.c_fc", heads)


def _proxy(state: State) -> Proxy:
    """The sizes of the MaskGIT-VQGAN's part in a legacy file."""
    hidden, logits = "decoder.ffn.0.weight", "decoder.ffn.2.weight"
    shape = sizes(state, hidden, logits, "pixel_quantize.embedding.weight", "pixel_decoder.conv_in.weight")
    table = _renames(count(state, r"pixel_decoder\.up\.(\d+)\."))
    ours = {renamed(name, table): weight for name, weight in state.items()}
    return Proxy(codebook_size=shape[logits][0], hidden=shape[hidden][0], network=VQGAN.of(ours, "maskgit", PIXELS))
