"""The parts assembled: encode, quantize, lookup, decode."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.pretrained import Pretrained, without_decoder
from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.decoder import build_decoder
from robustok.tokenizer.encoder import Conv, ViT, build_encoder
from robustok.tokenizer.protocol import TokenizerLike
from robustok.tokenizer.quantizer import BSQ, FSQ, LFQ, VQ, AnyVQ, Quantized, build_quantizer, tokens_of


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What a tokenizer is built from."""

    image_size: int = 256  # side of an image in pixels
    encoder: ViT | Conv = field(default_factory=ViT)  # image -> latent
    quantizer: AnyVQ = field(default_factory=VQ)  # latent -> code
    decoder: ViT | Conv = field(default_factory=ViT)  # code -> image
    channels: Literal[1, 3] = 3  # that the decoder makes; 1 for gray images, which then cannot come out tinted

    def __post_init__(self) -> None:
        made, read = (part.tokens(self.image_size) for part in (self.encoder, self.decoder))
        if made != read:
            raise ValueError(f"the encoder makes {made} tokens and the decoder reads {read}; choose equal numbers")
        tokens_of(self.quantizer, made)  # or it says what does not fit


def check_size(images: Images, side: int) -> None:
    """Raises ValueError for images of another size than a tokenizer's."""
    if images.shape[-2:] != (side, side):
        raise ValueError(
            f"this tokenizer takes images of {side} x {side} pixels, "
            f"not {images.shape[-2]} x {images.shape[-1]}; resize or crop them first"
        )


class WithQuantizer:
    """What a `quantizer` brings to any tokenizer: codes, and the way of images through them."""

    quantizer: Any  # a quantizer of `robustok.tokenizer.quantizers`, or what has as much of it as is used here

    @property
    def codebook(self) -> Codebook:
        return self.quantizer.codebook

    def quantize(self, latents: Latents) -> Quantized:
        return self.quantizer(latents)

    def lookup(self, tokens: Tokens) -> Float[Tensor, "b _ d"]:
        return self.quantizer.lookup(tokens)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, with the quantizer's gradient to the latents, as `encode` gives them."""
        return self.quantizer.straight_through(self.quantizer.project(latents), codes)

    def forward(self: TokenizerLike, images: Images) -> Images:
        """Reconstructions."""
        return self.decode(self.quantize(self.encode(images)).codes)


class Tokenizer(WithQuantizer, Pretrained):
    """Images to discrete tokens and back.

    encode: Images (b 3 h w) in [-1, 1] -> Latents (b n d); quantize: Latents -> Quantized;
    lookup: Tokens (b n) -> codes (b n d), of several levels their sum; decode: codes -> Images, not clamped.
    """

    kind, config_type = "tokenizer", TokenizerConfig

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.tokens_per_image = tokens_of(config.quantizer, config.encoder.tokens(config.image_size))
        width = config.quantizer.width
        self.encoder = build_encoder(config.encoder, config.image_size, width)
        self.quantizer = build_quantizer(config.quantizer)
        self.decoder: nn.Module = build_decoder(config.decoder, config.image_size, width, config.channels)

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.get_parameter("out.weight")

    def encode(self, images: Images) -> Latents:
        check_size(images, self.image_size)
        return self.encoder(images)

    def decode(self, codes: Latents) -> Images:
        return self.decoder(codes)

    def fingerprint(self) -> str:
        """A hash of what decides the tokens: encoder and codes. The decoder may change under it.

        Of weights alone, not of what is computed from them: that has other last digits on another device.
        """
        config, weights = self.config.quantizer, without_decoder(self)
        if isinstance(config, FSQ | LFQ | BSQ):
            return fingerprint(weights | {"codebook": self.codebook})  # no weight, since it is implicit
        given = {name: torch.tensor(getattr(config, name)) for name in config.deciding}
        return fingerprint({name: w for name, w in weights.items() if ".averages." not in name} | given)

    def earlier_fingerprints(self) -> tuple[str, ...]:
        """What `fingerprint` was up to version 0.1 where it is another now: of generators and caches made then."""
        if type(self.config.quantizer) is not VQ:
            return ()
        return (fingerprint(without_decoder(self) | {"codebook": self.codebook}),)
