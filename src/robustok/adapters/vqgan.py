"""VQGAN (Esser et al. 2021, arXiv 2012.09841): the convolutional network of its descendants, and their tokenizers.

Two dialects are spoken: that of taming-transformers (LlamaGen's tokenizer, VAR's) and that of the MaskGIT-VQGAN
(RAR's tokenizer, TiTok's pixel decoder), which has no attention, no biases in its residual blocks, averages where the
other strides, and where a block changes the number of channels adds a projection of its own output, not of its input.
Both normalize in 32 groups with eps 1e-6.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robustok.adapters.tokenizer_adapter import CodebookAdapter
from robustok.runtime.renaming import Renames, State, count_numbered, renamed
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import SpatialAttention, patches, to_map, to_sequence

Dialect = Literal["taming", "maskgit"]
GROUPS = 32  # of every group normalization


@dataclass(frozen=True, kw_only=True)
class VQGAN:
    """The sizes of an encoder and its decoder."""

    channels: tuple[int, ...] = (128, 128, 256, 256, 512)  # at each resolution, from the image's down by halves
    blocks: int = 2  # residual blocks at each resolution of the encoder; taming's decoder has one more
    latent: int = 256  # channels between encoder and decoder
    stem: int = 128  # channels of the encoder's first convolution
    dialect: Dialect = "taming"  # whose network it is

    @property
    def stride(self) -> int:
        """Pixels that a latent spans along each axis."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def of(cls, state: State, table: Renames, dialect: Dialect, decoder: str = "decoder") -> "VQGAN":
        """The sizes of weights that a table renames to ours; of a decoder alone, its encoder is taken to mirror it."""
        ours = {renamed(name, table): weight.shape for name, weight in state.items()}
        levels = count_numbered(ours, rf"{decoder}\.levels\.(\d+)\.")
        outputs = [ours[f"{decoder}.levels.{level}.blocks.0.conv2.weight"][0] for level in range(levels)]
        blocks = count_numbered(ours, rf"{decoder}\.levels\.0\.blocks\.(\d+)\.") - (dialect == "taming")
        stem = ours.get("encoder.conv_in.weight", outputs[-1:])[0]
        latent = ours[f"{decoder}.conv_in.weight"][1]
        return cls(channels=tuple(reversed(outputs)), blocks=blocks, latent=latent, stem=stem, dialect=dialect)


TAMING: Renames = (  # common to taming-transformers, LlamaGen and VAR, once levels are called levels
    ("encoder.levels.*.downsample.conv", "encoder.levels.*.resample"),
    ("decoder.levels.*.upsample.conv", "decoder.levels.*.resample"),
    ("levels.*.attn", "levels.*.attention"),
    ("nin_shortcut", "skip"),
    ("proj_out", "proj"),
)
CODES: Renames = (
    ("^quantize.embedding.weight", "^quantizer.embedding"),
    ("^quant_conv", "^to_code"),
    ("^post_quant_conv", "^from_code"),
)


def taming_renames(levels: int) -> Renames:
    """Taming's names for ours, queries, keys and values being one convolution, as VAR has them."""
    middle = (("mid.block_1", "middle.0"), ("mid.attn_1", "middle.1"), ("mid.block_2", "middle.2"))
    return (*_levels(levels, "decoder"), *middle, *TAMING)


def maskgit_renames(levels: int, decoder: str = "decoder") -> Renames:
    """The MaskGIT-VQGAN's names for ours."""
    return (*_levels(levels, decoder), ("mid", "middle"), ("nin_shortcut", "skip"), ("upsample_conv", "resample"))


def _levels(levels: int, decoder: str) -> Renames:
    """Their decoder numbers the resolutions from the finest, ours in the order they are run."""
    ups = ((f"{decoder}.up.{level}", f"{decoder}.levels.{levels - 1 - level}") for level in range(levels))
    return (("encoder.down.*", "encoder.levels.*"), *ups, ("levels.*.block.*", "levels.*.blocks.*"))


class ResnetBlock(nn.Module):
    """Two convolutions, each after group normalization and SiLU, added to the input."""

    def __init__(self, inputs: int, outputs: int, dialect: Dialect):
        super().__init__()
        bias, self.of_output = dialect == "taming", dialect == "maskgit"
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.skip: nn.Module | None = None
        if inputs != outputs:
            self.skip = nn.Conv2d(outputs if self.of_output else inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        if self.skip is None:
            return x + h
        return self.skip(h if self.of_output else x) + h


class Downsample(nn.Conv2d):
    """Half the resolution by a convolution that looks one pixel further to the right and below."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class ResnetUpsample(nn.Conv2d):
    """Twice the resolution by repeating pixels, then a convolution."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each with attention after it or none, and the step to the next one."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, dialect: Dialect, attention: bool, resample: nn.Module | None
    ):
        super().__init__()
        widths = pairwise([inputs, *[outputs] * blocks])
        self.blocks = nn.ModuleList(ResnetBlock(before, after, dialect) for before, after in widths)
        self.attention = nn.ModuleList(SpatialAttention(outputs, GROUPS) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if len(self.attention):
                x = self.attention[i](x)
        return x if self.resample is None else self.resample(x)


class VQGANEncoder(nn.Module):
    """Images (b 3 h w) to a map (b latent h/stride w/stride)."""

    def __init__(self, config: VQGAN):
        super().__init__()
        taming, last = config.dialect == "taming", len(config.channels) - 1
        self.conv_in = nn.Conv2d(3, config.stem, 3, padding=1, bias=taming)
        self.levels, inputs = nn.Sequential(), config.stem
        for i, outputs in enumerate(config.channels):
            down = None if i == last else Downsample(outputs) if taming else nn.AvgPool2d(2)
            self.levels.append(Level(inputs, outputs, config.blocks, config.dialect, taming and i == last, down))
            inputs = outputs
        self.middle = _middle(inputs, config)
        self.norm_out = _norm(inputs)
        self.conv_out = nn.Conv2d(inputs, config.latent, 3 if taming else 1, padding=1 if taming else 0)

    def forward(self, images: Images) -> Tensor:
        x = self.middle(self.levels(self.conv_in(images)))
        return self.conv_out(F.silu(self.norm_out(x)))


class VQGANDecoder(nn.Module):
    """A map (b latent h w) to images (b 3 h*stride w*stride), not clamped."""

    def __init__(self, config: VQGAN):
        super().__init__()
        taming, inputs = config.dialect == "taming", config.channels[-1]
        self.conv_in = nn.Conv2d(config.latent, inputs, 3, padding=1)
        self.middle = _middle(inputs, config)
        self.levels = nn.Sequential()
        for i, outputs in reversed(list(enumerate(config.channels))):
            attention = taming and i == len(config.channels) - 1
            up = ResnetUpsample(outputs) if i else None
            self.levels.append(Level(inputs, outputs, config.blocks + taming, config.dialect, attention, up))
            inputs = outputs
        self.norm_out = _norm(inputs)
        self.conv_out = nn.Conv2d(inputs, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Images:
        x = self.levels(self.middle(self.conv_in(codes)))
        return self.conv_out(F.silu(self.norm_out(x)))


class ConvTokenizer(CodebookAdapter):
    """A VQGAN's encoder and decoder, with convolutions `to_code` and `from_code` between them or none.

    A family's config has `image_size` and `network`; the family adds the `quantizer`.
    """

    def __init__(self, config: Any, width: int | None = None, *, kernel: int = 1):
        super().__init__()
        self.config, self.image_size, network = config, config.image_size, config.network
        self.tokens_per_image = patches(config.image_size, network.stride) ** 2
        self.encoder, self.decoder = VQGANEncoder(network), VQGANDecoder(network)
        self.to_code: nn.Module = nn.Identity()
        self.from_code: nn.Module = nn.Identity()
        if width is not None:
            self.to_code = nn.Conv2d(network.latent, width, kernel, padding=kernel // 2)
            self.from_code = nn.Conv2d(width, network.latent, kernel, padding=kernel // 2)

    def encode(self, images: Images) -> Latents:
        return to_sequence(self.to_code(self.encoder(images)))

    def decode(self, codes: Latents) -> Images:
        return self.decoder(self.from_code(to_map(codes)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _middle(channels: int, config: VQGAN) -> nn.Sequential:
    """Taming's has attention between two blocks; the MaskGIT-VQGAN's has as many blocks as each resolution."""
    taming = config.dialect == "taming"
    blocks = 2 if taming else config.blocks
    parts: list[nn.Module] = [ResnetBlock(channels, channels, config.dialect) for _ in range(blocks)]
    if taming:
        parts.insert(1, SpatialAttention(channels, GROUPS))
    return nn.Sequential(*parts)
