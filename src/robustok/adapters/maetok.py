"""MAETok (Chen et al. 2025, arXiv 2502.03444): a plain autoencoder with masked training, a sequence of latents.

Weights on the Hugging Face hub (`model.safetensors`, flat, and `config.json`): MAETok/maetok-b-128 for images of 256
pixels (rFID 0.48) and MAETok/maetok-b-128-512 for 512 (rFID 0.62), published and not reproduced here. The code's
repository (Hhhhhhao/continuous_tokenizer) has no licence file; its model cards are written with "apache-2.0".

What one might not expect:

- generators see normalized latents: (latent - vq_mean) / vq_std, two numbers that are not among the weights. They are
  read from the `config.json` beside the file, where its authors' code keeps them; else pass `mean` and `std` (without
  any: 0 and 1, as there);
- with rotary positions the encoder also has the embedded ones and the decoder has not, although its file holds them;
- the rotations are learnt, each head's own along both axes (mixed RoPE); class token and latents are not turned;
- masking belongs to training: its token is in the file, and encoding does not use it;
- the decoder's patch embedding is in the file and never used; auxiliary decoders of training (HOG, DINO, CLIP) and the
  models that taught them are put aside and written back;
- the authors cut pixels down to uint8; we round.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustok.adapters.adapter import Adapter
from robustok.adapters.renaming import Renames, State, sizes
from robustok.adapters.vit import BASE, Transformer, VisionTransformer, transformer_of
from robustok.backbones.dino import PUBLISHED_NAMES
from robustok.runtime.checkpoint import fingerprint, parse_json
from robustok.runtime.pretrained import without_decoder
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import unpatchify
from robustok.tokenizer.tokenizer import check_size


@dataclass(frozen=True, kw_only=True)
class MAETokConfig:
    """The sizes of a MAETok; the defaults are those of maetok-b-128."""

    image_size: int = 256  # side of an image in pixels
    patch: int = 16  # side of a patch in pixels
    tokens: int = 128  # of an image
    channels: int = 32  # of a token
    encoder: Transformer = BASE  # image -> latents
    decoder: Transformer = BASE  # latents -> image
    rotary: int = 256  # patches for which the file has rotary positions (rope_mixed); 0: embedded positions only
    decoder_class_token: bool = True  # the decoder has one beside its mask tokens, as the encoder has
    masked: bool = True  # the file has the token that hid patches in training
    layer_scale: bool = True  # a learnt gain on every residual branch, as DINOv2 has
    mean: float = 0.0  # of all latents (vq_mean)
    std: float = 1.0  # of all latents (vq_std): generators see (latent - mean) / std

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; it is the standard deviation of the latents, vq_std, above 0")
        if not self.rotary and not self.decoder_class_token:
            raise ValueError("without rotary positions a decoder needs its class token; give a whole checkpoint")


def _vision(size: Transformer, config: MAETokConfig, *, class_token: bool = True) -> VisionTransformer:
    return VisionTransformer(
        size,
        config.image_size,
        config.patch,
        class_token=class_token,
        latents=config.tokens,
        layer_scale=config.layer_scale,
        rotary=config.rotary,
    )


class Encoder(nn.Module):
    """Latent tokens gather what there is to say of an image."""

    def __init__(self, config: MAETokConfig):
        super().__init__()
        c = config.encoder.width
        self.vision = _vision(config.encoder, config)
        self.latents = nn.Parameter(0.02 * torch.randn(1, config.tokens, c))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, c)) if config.masked else None

    def forward(self, images: Images) -> Latents:
        latents = self.latents.expand(len(images), -1, -1)
        x = self.vision.beside(self.vision.placed(self.vision.embedded(images)), latents)
        return self.vision(x)[:, -latents.shape[1] :]


class Decoder(nn.Module):
    """Mask tokens in the places of the patches gather the image from the latents."""

    def __init__(self, config: MAETokConfig):
        super().__init__()
        c = config.decoder.width
        self.patch, self.image_size, self.embedded = config.patch, config.image_size, not config.rotary
        self.vision = _vision(config.decoder, config, class_token=config.decoder_class_token)
        assert self.vision.embed is not None, "the file has one"
        self.vision.embed.requires_grad_(False)  # and it is never used
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, c))
        self.out = nn.Linear(c, 3 * config.patch**2)

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance reconstruction and adversarial loss."""
        return self.out.weight

    def forward(self, latents: Latents) -> Images:
        n = self.vision.n
        x = self.vision.placed(self.mask_token.expand(len(latents), n, -1), positions=self.embedded)
        x = self.vision(self.vision.beside(x, latents))
        x = x[:, : -latents.shape[1]][:, -n:]
        return unpatchify(self.out(x), self.patch, self.image_size)


class MAETok(Adapter):
    """A published tokenizer: a `TokenizerLike` without a codebook."""

    family, kind, config_type = "maetok", "tokenizer", MAETokConfig
    prefer = ("ema", *WRAPPERS)
    unused = (
        r"^(decoder|post_quant_conv|to_pixel)_(hog|dino|clip|supcls)\.|"
        r"^(hog_generator|repa_model|clip_model|projection|(clip_)?(de_)?scale)\."
    )
    config: MAETokConfig

    def __init__(self, config: MAETokConfig):
        super().__init__()
        self.config, self.image_size, self.tokens_per_image = config, config.image_size, config.tokens
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.to_latent = nn.Linear(config.encoder.width, config.channels)
        self.from_latent = nn.Linear(config.channels, config.decoder.width)

    @property
    def device(self) -> torch.device:
        return self.last_layer.device

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def encode(self, images: Images) -> Latents:
        """Latents (b n d) as the generators see them, of images in [-1, 1]."""
        check_size(images, self.image_size)
        return (self.to_latent(self.encoder(images)) - self.config.mean) / self.config.std

    def decode(self, codes: Latents) -> Images:
        """Images, not clamped, of latents as `encode` gives them."""
        return self.decoder(self.from_latent(codes * self.config.std + self.config.mean))

    def fingerprint(self) -> str:
        """A hash of what decides the latents: all but the decoder."""
        statistics = {"mean": torch.tensor(self.config.mean), "std": torch.tensor(self.config.std)}
        return fingerprint(statistics | without_decoder(self))

    @staticmethod
    def matches(state: State) -> bool:
        needed = {"encoder.latent_tokens", "decoder.latent_pos_embed", "quant_conv.weight", "post_quant_conv.weight"}
        return needed <= state.keys() and not any(name.startswith("quantize.") for name in state)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **fields: Any) -> "MAETok":
        """The model in a published file, its latents' mean and std from the `config.json` beside it unless given.

        Further fields: `heads` of attention where the width does not tell; `dtype` None keeps the file's types.
        """
        return super().from_checkpoint(path, **(_statistics(Path(path).with_name("config.json")) | fields))

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, mean: float = 0.0, std: float = 1.0
    ) -> MAETokConfig:
        """Of these weights; `heads` of attention where they do not tell, `mean` and `std` of the latents."""
        embed, positions = "encoder.model.patch_embed.proj.weight", "encoder.model.pos_embed"
        shape = sizes(state, embed, positions, "encoder.latent_tokens", "quant_conv.weight")
        patch = shape[embed][2]
        return MAETokConfig(
            image_size=math.isqrt(shape[positions][1] - 1) * patch,
            patch=patch,
            tokens=shape["encoder.latent_tokens"][1],
            channels=shape["quant_conv.weight"][0],
            encoder=_transformer(state, "encoder", heads),
            decoder=_transformer(state, "decoder", heads),
            rotary=len(state["encoder.freqs_t_x"]) if "encoder.freqs_t_x" in state else 0,
            decoder_class_token="decoder.model.cls_token" in state,
            masked="encoder.mask_token" in state,
            layer_scale="encoder.model.blocks.0.ls1.gamma" in state,
            mean=mean,
            std=std,
        )

    @classmethod
    def renames(cls, config: MAETokConfig) -> Renames:
        return RENAMES


RENAMES: Renames = [
    *PUBLISHED_NAMES,
    ("^quant_conv", "^to_latent"),
    ("^post_quant_conv", "^from_latent"),
    ("^encoder.latent_tokens", "^encoder.latents"),
    ("^decoder.to_pixel.model", "^decoder.out"),
    *(
        pair
        for part in ("^encoder", "^decoder")
        for pair in (
            (f"{part}.model", f"{part}.vision"),
            (f"{part}.latent_pos_embed", f"{part}.vision.latent_positions"),
            (f"{part}.freqs", f"{part}.vision.frequencies"),
            (f"{part}.freqs_t_x", f"{part}.vision.columns"),
            (f"{part}.freqs_t_y", f"{part}.vision.rows"),
        )
    ),
]


def _transformer(state: State, part: str, heads: int | None) -> Transformer:
    """The sizes of encoder or decoder."""
    return transformer_of(state, f"{part}.model.blocks", f"{part}.model.pos_embed", "mlp.fc1", heads)


def _statistics(path: Path) -> dict[str, float]:
    """Mean and standard deviation of the latents, if the file of the authors' configuration says them."""
    try:
        saved = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    fields = saved.get("config", saved) if isinstance(saved, dict) else {}
    known = {"mean": fields.get("vq_mean"), "std": fields.get("vq_std")}
    return {name: float(value) for name, value in known.items() if value is not None}
