"""MAETok (Chen et al. 2025, arXiv 2502.03444): a plain autoencoder with masked training, a sequence of latents.

`docs/models/maetok.md` has the weights and their scores. What one might not expect:

- generators see normalized latents: (latent - vq_mean) / vq_std, two numbers that are not among the weights. They are
  read from the `config.json` beside the file, where its authors' code keeps them; else pass `mean` and `std` (without
  any: 0 and 1, as there);
- with rotary positions the encoder also has the embedded ones and the decoder has not, although its file holds them;
- the rotations are learned, each head's own along both axes (mixed RoPE); class token and latents are not turned;
- masking belongs to training: its token is in the file, and encoding does not use it;
- the decoder's patch embedding is in the file and never used; auxiliary decoders of training (HOG, DINO, CLIP) and the
  models that taught them are put aside and written back.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustok.adapters.files import settings_beside
from robustok.adapters.tokenizer_adapter import TokenizerAdapter
from robustok.adapters.vit import BASE, LatentDecoder, LatentEncoder, Transformer, ViTTrunk, transformer_of
from robustok.backbones.dino import PUBLISHED_NAMES
from robustok.runtime.renaming import State, sizes
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import unpatchify

VISION = (  # parts of names in encoder and decoder: theirs, ours
    ("model", ""),
    ("latent_pos_embed", ".latent_positions"),
    ("freqs", ".frequencies"),
    ("freqs_t_x", ".columns"),
    ("freqs_t_y", ".rows"),
)


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
    layer_scale: bool = True  # a learned gain on every residual branch, as DINOv2 has
    mean: float = 0.0  # of all latents (vq_mean)
    std: float = 1.0  # of all latents (vq_std): generators see (latent - mean) / std

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; it is the standard deviation of the latents, vq_std, above 0")
        if not self.rotary and not self.decoder_class_token:
            raise ValueError("without rotary positions a decoder needs its class token; give a whole checkpoint")


def _vision(size: Transformer, config: MAETokConfig, *, class_token: bool = True) -> ViTTrunk:
    return ViTTrunk(
        size,
        config.image_size,
        config.patch,
        class_token=class_token,
        latents=config.tokens,
        layer_scale=config.layer_scale,
        rotary=config.rotary,
    )


class MAETokEncoder(LatentEncoder):
    """Latent tokens, and what hid patches in training."""

    def __init__(self, config: MAETokConfig):
        c = config.encoder.width
        super().__init__(_vision(config.encoder, config), 0.02 * torch.randn(1, config.tokens, c))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, c)) if config.masked else None


class MAETokDecoder(LatentDecoder):
    """Pixels from latents."""

    def __init__(self, config: MAETokConfig):
        c, vision = config.decoder.width, _vision(config.decoder, config, class_token=config.decoder_class_token)
        super().__init__(vision, 0.02 * torch.randn(1, 1, c))
        self.patch, self.image_size, self.embedded = config.patch, config.image_size, not config.rotary
        assert vision.embed is not None, "the file has one"
        vision.embed.requires_grad_(False)  # and it is never used
        self.out = nn.Linear(c, 3 * config.patch**2)

    def forward(self, latents: Latents) -> Images:
        x = self.gathered(latents, positions=self.embedded)
        return unpatchify(self.out(x), self.patch, self.image_size)


class MAETok(TokenizerAdapter):
    """A published tokenizer: a `TokenizerLike` without a codebook."""

    family, config_type = "maetok", MAETokConfig
    prefer = ("ema", *WRAPPERS)
    marks = ("encoder.latent_tokens", "decoder.latent_pos_embed", "quant_conv.weight", "post_quant_conv.weight")
    foreign = r"quantize\."
    unused = (
        r"^(decoder|post_quant_conv|to_pixel)_(hog|dino|clip|supcls)\.|"
        r"^(hog_generator|repa_model|clip_model|projection|(clip_)?(de_)?scale)\."
    )
    table = (
        *PUBLISHED_NAMES,
        ("^quant_conv", "^to_latent"),
        ("^post_quant_conv", "^from_latent"),
        ("^encoder.latent_tokens", "^encoder.latents"),
        ("^decoder.to_pixel.model", "^decoder.out"),
        *((f"^{part}.{theirs}", f"^{part}.vision{ours}") for part in ("encoder", "decoder") for theirs, ours in VISION),
    )
    decider_parts = ("encoder.", "to_latent.", "from_latent.")
    decider_fields = ("mean", "std")
    config: MAETokConfig

    def __init__(self, config: MAETokConfig):
        super().__init__()
        self.config, self.image_size, self.tokens_per_image = config, config.image_size, config.tokens
        self.encoder, self.decoder = MAETokEncoder(config), MAETokDecoder(config)
        self.to_latent = nn.Linear(config.encoder.width, config.channels)
        self.from_latent = nn.Linear(config.channels, config.decoder.width)

    def encode(self, images: Images) -> Latents:
        """Latents (b n d) as the generators see them, of images in [-1, 1]."""
        return (self.to_latent(super().encode(images)) - self.config.mean) / self.config.std

    def decode(self, codes: Latents) -> Images:
        """Images, not clamped, of latents as `encode` gives them."""
        return super().decode(self.from_latent(codes * self.config.std + self.config.mean))

    @classmethod
    def fields_beside(cls, path: Path) -> dict[str, Any]:
        """Mean and standard deviation of the latents, if a file of the authors' configuration says them."""
        saved = settings_beside(path)
        fields = saved.get("config", saved)
        known = {"mean": fields.get("vq_mean"), "std": fields.get("vq_std")}
        return {name: float(value) for name, value in known.items() if value is not None}

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, mean: float = 0.0, std: float = 1.0
    ) -> MAETokConfig:
        """Sizes of weights; `heads` of attention where they do not tell, `mean` and `std` of the latents."""
        embed, positions = "encoder.model.patch_embed.proj.weight", "encoder.model.pos_embed"
        shape = sizes(state, embed, positions, "encoder.latent_tokens", "quant_conv.weight")
        patch = shape[embed][2]
        return MAETokConfig(
            image_size=math.isqrt(shape[positions][1] - 1) * patch,
            patch=patch,
            tokens=shape["encoder.latent_tokens"][1],
            channels=shape["quant_conv.weight"][0],
            encoder=transformer_of(state, "encoder.model", heads),
            decoder=transformer_of(state, "decoder.model", heads),
            rotary=len(state["encoder.freqs_t_x"]) if "encoder.freqs_t_x" in state else 0,
            decoder_class_token="decoder.model.cls_token" in state,
            masked="encoder.mask_token" in state,
            layer_scale="encoder.model.blocks.0.ls1.gamma" in state,
            mean=mean,
            std=std,
        )
