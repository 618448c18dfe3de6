"""A continuous tokenizer: the encoder and decoder of the discrete one, with a bottleneck in the codebook's place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustok.runtime.checkpoint import check_weights, fingerprint, load_weights
from robustok.runtime.pretrained import Pretrained, without_decoder
from robustok.shapes import Images, Latents
from robustok.tokenizer.bottleneck import KL, Plain, Posterior, VarianceExpansion, encoder_width, posterior
from robustok.tokenizer.decoder import build_decoder
from robustok.tokenizer.encoder import Conv, ViT, build_encoder
from robustok.tokenizer.frozen_encoder import AnyFrozen, FrozenEncoder
from robustok.tokenizer.tokenizer import check_size

FROZEN = "encoder.network."  # names of a frozen encoder's weights in a folder


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What a continuous tokenizer is built from."""

    image_size: int = 256  # side of an image in pixels
    encoder: ViT | Conv | AnyFrozen = field(default_factory=ViT)  # image -> latent
    bottleneck: Plain | KL | VarianceExpansion = field(default_factory=Plain)  # what a latent passes
    decoder: ViT | Conv = field(default_factory=ViT)  # latent -> image
    channels: Literal[1, 3] = 3  # that the decoder makes; 1 for gray images, which then cannot come out tinted

    def __post_init__(self) -> None:
        made, read = (part.tokens(self.image_size) for part in (self.encoder, self.decoder))
        if made != read:
            raise ValueError(f"the encoder makes {made} tokens and the decoder reads {read}; choose equal numbers")
        if isinstance(self.encoder, AnyFrozen) and self.bottleneck != Plain(width=self.encoder.width):
            raise ValueError(
                f"the latents of this frozen encoder are its {self.encoder.width} channels as they are, but the "
                f"bottleneck is {self.bottleneck}; set it to a Plain of width {self.encoder.width}"
            )


class Autoencoder(Pretrained):
    """Images to continuous latents and back.

    encode: Images (b 3 h w) in [-1, 1] -> Latents (b n d), each channel with mean 0 and standard deviation 1 over the
    images that it was trained on; decode: such latents -> Images, not clamped. `latent_mean` and `latent_scale` (d),
    which do that, are part of the model: 0 and 1 while it trains, measured at the end (`standardize`).
    """

    kind, config_type = "autoencoder", AutoencoderConfig
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.tokens_per_image = config.encoder.tokens(config.image_size)
        width = config.bottleneck.width
        self.encoder = (
            FrozenEncoder(config.encoder)
            if isinstance(config.encoder, AnyFrozen)
            else build_encoder(config.encoder, config.image_size, encoder_width(config.bottleneck))
        )
        self.decoder: nn.Module = build_decoder(config.decoder, config.image_size, width, config.channels)
        self.register_buffer("latent_mean", torch.zeros(width))
        self.register_buffer("latent_scale", torch.ones(width))

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(n, d)"""
        return self.tokens_per_image, self.config.bottleneck.width

    @property
    def device(self) -> torch.device:
        return self.latent_mean.device

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.get_parameter("out.weight")

    def posterior(self, images: Images, hidden: Bool[Tensor, "b patches"] | None = None) -> Posterior:
        """What the encoder says of images, as it is trained: before any standardizing.

        `hidden` patches are kept from the encoder, as many of each image (`encoder.random_patch_mask`).
        """
        check_size(images, self.image_size)
        encoded = self.encoder(images) if hidden is None else self.encoder(images, hidden)
        return posterior(self.config.bottleneck, encoded)

    def encode(self, images: Images) -> Latents:
        return (self.posterior(images).mean - self.latent_mean) / self.latent_scale

    def decode(self, codes: Latents) -> Images:
        return self.decoder(codes * self.latent_scale + self.latent_mean)

    def standardize(self, mean: Float[Tensor, " d"], scale: Float[Tensor, " d"]) -> None:
        """From now on subtract `mean` and divide by `scale`, both of latents as `encode` gives them now."""
        if not (scale > 0).all() or not (mean.isfinite() & scale.isfinite()).all():
            raise ValueError(
                f"a latent's mean and scale must be finite, the scale above 0, not {mean.tolist()} and "
                f"{scale.tolist()}; a channel without spread carries nothing, so take fewer channels"
            )
        self.latent_mean.add_(mean.to(self.device) * self.latent_scale)
        self.latent_scale.mul_(scale.to(self.device))

    def saved_state(self) -> dict[str, Tensor]:
        """All weights, those of a frozen encoder among them."""
        frozen = self.encoder.weights() if isinstance(self.encoder, FrozenEncoder) else {}
        return self.state_dict() | {f"{FROZEN}{name}": weight for name, weight in frozen.items()}

    def load_saved(self, state: dict[str, Tensor], source: str | Path) -> None:
        if isinstance(self.encoder, FrozenEncoder):
            frozen = {name.removeprefix(FROZEN): w for name, w in state.items() if name.startswith(FROZEN)}
            complaint = f"the frozen encoder in {source} is not that of its config"
            check_weights(frozen, self.encoder.weights(), complaint, "weights and config must come from the same model")
            self.encoder.take(frozen)
            state = {name: weight for name, weight in state.items() if not name.startswith(FROZEN)}
        load_weights(self, state, source)

    def fingerprint(self) -> str:
        """A hash of what decides the latents: the encoder and the statistics. The decoder may change under it."""
        return fingerprint(without_decoder(self))

    def forward(self, images: Images) -> Images:
        """Reconstructions."""
        return self.decode(self.encode(images))
