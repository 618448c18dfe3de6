"""Codes -> image: the mirror of each encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import (
    Conv,
    ResidualBlock,
    ViT,
    group_norm,
    learnt,
    middle,
    patches,
    to_map,
    transformer,
    unpatchify,
)

FINE = 16  # channels at full resolution, where a decoder's squares have been spread out


def as_rgb(images: Float[Tensor, "b c h w"]) -> Images:
    """One channel repeated three times; three as they are."""
    return images.expand(-1, 3, -1, -1)


class Upsample(nn.Module):
    """Twice the resolution by repeating pixels, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ConvDecoder(nn.Module):
    """A square map of codes in raster order to images."""

    def __init__(self, config: Conv, width: int, channels: int):
        super().__init__()
        inputs = config.channels[-1]
        self.embed = nn.Conv2d(width, inputs, 3, padding=1)
        self.middle = middle(inputs, config.attention)
        layers: list[nn.Module] = []
        for level, outputs in enumerate(reversed(config.channels)):
            if level:
                layers.append(Upsample(inputs))
            for _ in range(config.blocks):
                layers.append(ResidualBlock(inputs, outputs))
                inputs = outputs
        self.levels = nn.Sequential(*layers)
        self.norm, self.stem = group_norm(inputs), config.stem
        if config.stem > 1:
            self.spread = nn.Conv2d(inputs, FINE * config.stem**2, 3, padding=1)
            inputs = FINE
        self.out = nn.Conv2d(inputs, channels, 3, padding=1)

    def forward(self, codes: Latents) -> Images:
        x = self.levels(self.middle(self.embed(to_map(codes))))
        x = F.silu(self.norm(x))
        if self.stem > 1:
            # a convolution among the pixels themselves, or the squares that were merged show as a checkerboard
            x = F.silu(F.pixel_shuffle(self.spread(x), self.stem))
        return as_rgb(self.out(x))


class ViTDecoder(nn.Module):
    """Mask tokens in the places of the patches gather the image from the codes.

    The sequence is [class token, mask tokens + positions, class token, codes + positions], with an embedding
    that tells image from latent, as in the released tokenizer.
    """

    def __init__(self, config: ViT, image_size: int, width: int, channels: int):
        super().__init__()
        n, c = patches(image_size, config.patch) ** 2, config.width
        self.patch, self.image_size = config.patch, image_size
        self.embed = nn.Linear(width, c)
        self.class_token, self.positions = learnt(1, c), learnt(n, c)
        self.mask_token, self.kind = learnt(1, c), learnt(2, c)
        self.latent_positions = learnt(config.latents, c) if config.latents != n else None
        self.blocks = transformer(config)
        self.norm, self.out = nn.LayerNorm(c, eps=1e-6), nn.Linear(c, channels * config.patch**2)

    def forward(self, codes: Latents) -> Images:
        n = len(self.positions)
        positions = self.positions if self.latent_positions is None else self.latent_positions
        image = torch.cat([self.class_token, self.mask_token + self.positions]) + self.kind[0]
        latents = torch.cat([self.class_token.expand(len(codes), -1, -1), self.embed(codes) + positions], dim=1)
        x = torch.cat([image.expand(len(codes), -1, -1), latents + self.kind[1]], dim=1)
        x = self.blocks(x)
        return as_rgb(unpatchify(self.out(self.norm(x[:, 1 : n + 1])), self.patch, self.image_size))


def build_decoder(config: ViT | Conv, image_size: int, width: int, channels: int = 3) -> ViTDecoder | ConvDecoder:
    """The decoder of codes (b n width) to images (b 3 h w), all gray if it makes one channel only."""
    match config:
        case ViT():
            return ViTDecoder(config, image_size, width, channels)
        case Conv():
            return ConvDecoder(config, width, channels)
