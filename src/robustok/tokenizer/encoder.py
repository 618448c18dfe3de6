"""Image -> latent: a vision transformer with latent tokens, or a convolutional network."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Generator, Tensor, nn

from robustok.layers import Block
from robustok.runtime.configs import check_least
from robustok.shapes import Images, Latents

Hidden: TypeAlias = Bool[Tensor, "b patches"]  # patches in raster order that the encoder may not see


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer whose latents are tokens of their own beside the image patches."""

    patch: int = 16  # side of a patch in pixels
    latents: int = 256  # latent tokens of an image
    width: int = 768  # width of the transformer
    depth: int = 12  # number of blocks
    heads: int = 12  # attention heads; 64 channels a head are the fast choice
    layer_scale: float | None = 1e-5  # starting gain of every residual branch, as DINOv2 has; None: no gain

    def __post_init__(self) -> None:
        check_least(self, 1, "patch", "latents", "width", "depth", "heads")

    def tokens(self, image_size: int) -> int:
        """Tokens that an image of this side has."""
        patches(image_size, self.patch)
        return self.latents


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolutional network in the manner of VQGAN (arXiv 2012.09841)."""

    stem: int = 1  # the first convolution merges squares of this side; 1 keeps the image's resolution
    channels: tuple[int, ...] = (128, 128, 256, 256, 512)  # width at each resolution, every one half the last
    blocks: int = 2  # residual blocks at each resolution
    attention: bool = True  # self-attention at the lowest resolution

    def __post_init__(self) -> None:
        if not self.channels or min(self.stem, self.blocks, *self.channels) < 1:
            raise ValueError("a convolutional network's stem, blocks and channels are at least 1")

    @property
    def stride(self) -> int:
        """Pixels that a latent spans along each axis."""
        return self.stem * 2 ** (len(self.channels) - 1)

    def tokens(self, image_size: int) -> int:
        """Tokens that an image of this side has."""
        return patches(image_size, self.stride) ** 2


def patches(side: int, patch: int) -> int:
    """How many patches fit along a side."""
    if side % patch:
        raise ValueError(
            f"side {side} is not a multiple of the patch size {patch}; "
            f"crop to {max(1, side // patch) * patch} or choose a tokenizer with another patch size"
        )
    return side // patch


def patch_side(config: "ViT | Conv") -> int:
    """Side in pixels of the squares that can be hidden from an encoder."""
    return config.patch if isinstance(config, ViT) else config.stride


def random_patch_mask(b: int, n: int, share: float, *, generator: Generator) -> Hidden:
    """Exactly round(share n) patches of each of b images, drawn without replacement, at most all but one: (b, n)."""
    ranks = torch.rand(b, n, generator=generator, device=generator.device).argsort(1).argsort(1)
    return ranks < min(round(share * n), n - 1)


def patchify(images: Images, patch: int) -> Tensor:
    """Images cut into patches in raster order: (b, n, patch * patch * 3), a patch as row, column, channel."""
    b, c, h, w = images.shape
    rows, columns = patches(h, patch), patches(w, patch)
    x = images.view(b, c, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b, rows * columns, patch * patch * c)


def unpatchify(x: Tensor, patch: int, side: int) -> Tensor:
    """The inverse of `patchify` for square images of `side` pixels, of any number of channels."""
    b, g = len(x), patches(side, patch)
    return x.view(b, g, g, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, side, side)


def to_sequence(x: Tensor) -> Tensor:
    """A map (b, c, h, w) as a sequence (b, h * w, c) in raster order."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor) -> Tensor:
    """The inverse of `to_sequence` for square maps, in the memory layout that convolutions like."""
    b, n, c = x.shape
    side = round(n**0.5)
    if side * side != n:
        raise ValueError(f"{n} tokens do not form a square map; the convolutional decoder needs one")
    return x.transpose(1, 2).reshape(b, c, side, side).contiguous(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation and SiLU, added to the input."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """Self-attention of one head over the places of a map, added to it."""

    def __init__(self, channels: int, groups: int | None = None):
        super().__init__()
        self.norm = group_norm(channels) if groups is None else nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = to_sequence(self.qkv(self.norm(x))).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(h.transpose(1, 2).reshape(x.shape))


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation of 16 channels together, as VQGAN has at its widest; fewer are many times slower on a CPU."""
    return nn.GroupNorm(max(1, channels // 16) if channels % 16 == 0 else 1, channels, eps=1e-6)


def middle(channels: int, attention: bool) -> nn.Sequential:
    """What a convolutional encoder and decoder do at the lowest resolution."""
    between = [SpatialAttention(channels)] if attention else []
    return nn.Sequential(ResidualBlock(channels, channels), *between, ResidualBlock(channels, channels))


class ConvEncoder(nn.Module):
    """Images to a sequence of latents, one for each place of the lowest resolution, in raster order."""

    def __init__(self, config: Conv, width: int):
        super().__init__()
        merged = config.stem > 1
        self.stem = nn.Conv2d(
            3, config.channels[0], config.stem if merged else 3, config.stem, padding=0 if merged else 1
        )
        layers: list[nn.Module] = []
        inputs = config.channels[0]
        for level, outputs in enumerate(config.channels):
            if level:
                layers.append(nn.Conv2d(inputs, inputs, 3, stride=2, padding=1))
            for _ in range(config.blocks):
                layers.append(ResidualBlock(inputs, outputs))
                inputs = outputs
        self.levels = nn.Sequential(*layers)
        self.middle = middle(inputs, config.attention)
        self.norm, self.out = group_norm(inputs), nn.Conv2d(inputs, width, 3, padding=1)

    def forward(self, images: Images, hidden: Hidden | None = None) -> Latents:
        if hidden is not None:  # gray, the middle of the range
            side = round(hidden.shape[1] ** 0.5)
            images = images * F.interpolate(
                (~hidden).view(-1, 1, side, side).to(images), size=images.shape[-2:], mode="nearest"
            )
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        x = self.middle(self.levels(x))
        return to_sequence(self.out(F.silu(self.norm(x))))


class ViTEncoder(nn.Module):
    """Image patches and learnt latent tokens attend to each other; the latent tokens become the latent.

    The sequence is [class token, patches + positions, latent tokens + positions], with an embedding that
    tells image from latent, as in the released tokenizer. Where latents and patches are equally many they
    share their positions.
    """

    def __init__(self, config: ViT, image_size: int, width: int):
        super().__init__()
        n, c = patches(image_size, config.patch) ** 2, config.width
        self.patch = config.patch
        self.embed = nn.Linear(3 * config.patch**2, c)
        self.class_token, self.positions = learnt(1, c), learnt(n, c)
        self.latent_tokens, self.kind = learnt(config.latents, c), learnt(2, c)
        self.blocks = transformer(config)
        self.norm, self.out = nn.LayerNorm(c, eps=1e-6), nn.Linear(c, width)

    def forward(self, images: Images, hidden: Hidden | None = None) -> Latents:
        x = self.embed(patchify(images, self.patch)) + self.positions
        if hidden is not None:  # left out of the sequence (He et al. 2022, MAE, sec. 3)
            x = x[~hidden].view(len(x), -1, x.shape[2])
        latents: Tensor = self.latent_tokens
        if len(latents) == len(self.positions):
            latents = latents + self.positions
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.kind[0]
        x = torch.cat([x, (latents + self.kind[1]).expand(len(x), -1, -1)], dim=1)
        x = self.blocks(x)
        return self.out(self.norm(x[:, -len(latents) :]))


def transformer(config: ViT) -> nn.Sequential:
    """The blocks of a vision transformer."""
    return nn.Sequential(
        *(Block(config.width, config.heads, layer_scale=config.layer_scale) for _ in range(config.depth))
    )


def learnt(rows: int, width: int) -> nn.Parameter:
    """A learnt table of embeddings, started as transformers start theirs."""
    return nn.Parameter(0.02 * torch.randn(rows, width))


def build_encoder(config: ViT | Conv, image_size: int, width: int) -> nn.Module:
    """The encoder of images (b 3 h w) to latents (b n width)."""
    match config:
        case ViT():
            return ViTEncoder(config, image_size, width)
        case Conv():
            patches(image_size, config.stride)
            return ConvEncoder(config, width)
