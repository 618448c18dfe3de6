"""TiTok (Yu et al. 2024, arXiv 2406.07550): an image as a short sequence of tokens that belong to no place.

`docs/models/titok.md` has the weights and their scores. The `vae` tokenizers of the same family have no codebook and
are refused. Those of 32 to 128 tokens of 4096 codes are "legacy": their decoder predicts the code of a MaskGIT-VQGAN at
each place, and that network's decoder makes the image from the expected code. The others make pixels themselves. What
one might not expect:

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

from robustok.adapters.tokenizer_adapter import CodebookAdapter, vector_quantizer
from robustok.adapters.vit import LatentDecoder, LatentEncoder, Transformer, ViTTrunk, transformer_of
from robustok.adapters.vqgan import VQGAN, VQGANDecoder, maskgit_renames
from robustok.runtime.renaming import Renames, State, count_numbered, sizes
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import to_map, to_sequence, unpatchify

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


def _vision(size: Transformer, config: TiTokConfig, patch: int, *, sees: bool) -> ViTTrunk:
    how: dict[str, Any] = {"latents": config.tokens, "rank": 2, "layer_scale": False, "norm_in": True, "eps": 1e-5}
    return ViTTrunk(size, config.image_size, patch, sees=sees, **how)


class TiTokEncoder(LatentEncoder):
    """Latent tokens and their projection to codes' channels."""

    def __init__(self, config: TiTokConfig):
        c = config.encoder.width
        latents = c**-0.5 * torch.randn(config.tokens, c)
        super().__init__(_vision(config.encoder, config, config.patch, sees=True), latents)
        self.legacy, self.out = config.proxy is not None, nn.Conv2d(c, config.code_width, 1)

    def forward(self, images: Images) -> Latents:
        x = super().forward((images + 1) / 2)
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

    def forward(self, x: Float[Tensor, "b c _ _"]) -> Images:
        likely = self.logits(torch.tanh(self.hidden(x))).softmax(dim=1)
        return self.pixels(torch.einsum("bkhw,kd->bdhw", likely, self.codes))


class TiTokDecoder(LatentDecoder):
    """Pixels, or what the proxy makes pixels of, from codes."""

    def __init__(self, config: TiTokConfig):
        c, proxy = config.decoder.width, config.proxy
        embed, mask_token = nn.Linear(config.code_width, c), c**-0.5 * torch.randn(1, 1, c)
        super().__init__(_vision(config.decoder, config, config.decoder_patch, sees=False), mask_token)
        self.embed, self.head = embed, Direct(config) if proxy is None else Proxied(c, proxy)

    def forward(self, codes: Latents) -> Images:
        return 2 * self.head(to_map(self.gathered(self.embed(codes)))) - 1


class TiTok(CodebookAdapter):
    """A TiTok with a codebook: a `TokenizerLike`."""

    family, config_type = "titok", TiTokConfig
    marks = ("latent_tokens", "decoder.decoder_embed.weight", "quantize.embedding.weight")
    decider_fields = ("normalized",)

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.config, self.image_size, self.tokens_per_image = config, config.image_size, config.tokens
        self.encoder, self.decoder = TiTokEncoder(config), TiTokDecoder(config)
        self.quantizer = vector_quantizer(config.codebook_size, config.code_width, normalized=config.normalized)

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, normalized: bool | None = None
    ) -> TiTokConfig:
        """Sizes of weights. They tell neither the `heads` of an unusual width nor if codes are `normalized`, which
        is taken for granted in legacy files and only there.
        """
        embed, book = "encoder.patch_embed.weight", "quantize.embedding.weight"
        positions, made = "encoder.positional_embedding", "decoder.positional_embedding"
        shape = sizes(state, "latent_tokens", embed, positions, book, made)
        legacy, patch = "decoder.ffn.2.weight" in state, shape[embed][2]
        image_size = math.isqrt(shape[positions][0] - 1) * patch
        return TiTokConfig(
            image_size=image_size,
            tokens=shape["latent_tokens"][0],
            encoder=_transformer(state, "encoder", heads),
            decoder=_transformer(state, "decoder", heads),
            patch=patch,
            decoder_patch=image_size // math.isqrt(shape[made][0] - 1),
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
    block = (
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("attn.in_proj_weight", "attention.qkv.weight"),
        ("attn.in_proj_bias", "attention.qkv.bias"),
        ("attn.out_proj", "attention.proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    )
    return (
        *(proxied if levels else direct),
        *((f"^{part}.{a}", f"^{part}.vision.{b}") for part in ("encoder", "decoder") for a, b in vision),
        ("^latent_tokens", "^encoder.latents"),
        ("^encoder.patch_embed", "^encoder.vision.embed"),
        ("^encoder.conv_out", "^encoder.out"),
        ("^decoder.decoder_embed", "^decoder.embed"),
        ("^quantize.embedding.weight", "^quantizer.embedding"),
        *((f"vision.blocks.*.{theirs}", f"vision.blocks.*.{ours}") for theirs, ours in block),
    )


def _transformer(state: State, part: str, heads: int | None) -> Transformer:
    """The sizes of encoder or decoder."""
    names = {"blocks": "transformer", "positions": "positional_embedding", "hidden": "mlp.c_fc"}
    return transformer_of(state, part, heads, **names)


def _proxy(state: State) -> Proxy:
    """The sizes of the MaskGIT-VQGAN's part in a legacy file."""
    hidden, logits = "decoder.ffn.0.weight", "decoder.ffn.2.weight"
    shape = sizes(state, hidden, logits, "pixel_quantize.embedding.weight", "pixel_decoder.conv_in.weight")
    table = _renames(count_numbered(state, r"pixel_decoder\.up\.(\d+)\."))
    network = VQGAN.of(state, table, "maskgit", PIXELS)
    return Proxy(codebook_size=shape[logits][0], hidden=shape[hidden][0], network=network)
