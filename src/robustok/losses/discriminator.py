"""Discriminators: images in, one logit a place out; high means "real".

None of them mixes the images of a batch, so an image's logits are the same at any batch size.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from robustok.backbones.lite0 import CHANNELS, Lite0
from robustok.shapes import Images

LogitMaps: TypeAlias = Float[Tensor, "b heads p q"]

GROUP = 16  # channels that are normalized together


@dataclass(frozen=True, kw_only=True)
class PatchGAN:
    """Convolutions that judge overlapping patches (Isola et al. 2017, arXiv 1611.07004)."""

    width: int = 64  # channels of the first layer; each later layer has twice as many, up to 8 times
    halvings: int = 2  # how often the side is halved; 2 suits 32 px (patches of 34), 3 suits 256 px (of 70)

    def __post_init__(self) -> None:
        check_width(self.width)
        if self.halvings < 1:
            raise ValueError(f"halvings is {self.halvings}; a PatchGAN needs 1 or more")


@dataclass(frozen=True, kw_only=True)
class FeatureDiscriminator:
    """Small trained heads on maps of the frozen Lite0 (after Sauer et al. 2021, arXiv 2111.01007)."""

    stages: tuple[int, ...] = (2, 3, 4)  # of Lite0's maps 1 to 5 (strides 2, 4, 8, 16, 32), which have a head
    width: int = 64  # channels inside a head
    spectral: bool = True  # whether every convolution of a head is kept at spectral norm 1
    size: int | None = None  # side in pixels that images are resized to first, None to take them as they are

    def __post_init__(self) -> None:
        check_width(self.width)
        if not self.stages or not set(self.stages) <= set(range(1, len(CHANNELS) + 1)):
            raise ValueError(f"stages is {self.stages}; name one or more of Lite0's stages 1 to {len(CHANNELS)}")


def check_width(width: int) -> None:
    if width < GROUP or width % GROUP:
        raise ValueError(f"width is {width}; give a multiple of {GROUP}, the channels normalized together")


def build_discriminator(config: PatchGAN | FeatureDiscriminator) -> nn.Module:
    """The module that takes Images to LogitMaps."""
    match config:
        case PatchGAN():
            return PatchNetwork(config)
        case FeatureDiscriminator():
            return FeatureHeads(config)


class PatchNetwork(nn.Module):
    """Logits (b 1 p q) of patches: 4 x 4 convolutions that halve the side, then two that do not."""

    def __init__(self, config: PatchGAN) -> None:
        super().__init__()
        self.smallest = 3 * 2**config.halvings  # the last two convolutions each take a pixel off the side
        widths = [config.width * min(2**layer, 8) for layer in range(config.halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(1, config.halvings + 1):
            stride = 2 if layer < config.halvings else 1
            conv = nn.Conv2d(widths[layer - 1], widths[layer], 4, stride=stride, padding=1, bias=False)
            layers += [conv, normalization(widths[layer]), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images: Images) -> LogitMaps:
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this PatchGAN needs sides of {self.smallest} pixels or more, but the images are "
                f"{images.shape[-2]} x {images.shape[-1]}; take larger images or fewer halvings"
            )
        return self.layers(images)


class FeatureHeads(nn.Module):
    """Logits (b heads p q), one head a stage of the frozen network, the finest first.

    Logits of coarser maps are repeated to the finest map's size, so every head has the same say in a mean.
    """

    def __init__(self, config: FeatureDiscriminator) -> None:
        super().__init__()
        self.stages = sorted(set(config.stages))
        self.size = config.size
        self.backbone = Lite0()
        self.heads = nn.ModuleList(head(CHANNELS[stage - 1], config) for stage in self.stages)

    def forward(self, images: Images) -> LogitMaps:
        if self.size is not None:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        maps = self.backbone(images, self.stages[-1]).stages
        logits = [head(maps[stage - 1]) for stage, head in zip(self.stages, self.heads, strict=True)]
        finest = logits[0].shape[-2:]
        return torch.cat([F.interpolate(logit, size=finest) for logit in logits], dim=1)


def head(channels: int, config: FeatureDiscriminator) -> nn.Sequential:
    """Features (b channels p q) to logits (b 1 p q), each of which sees 3 x 3 places."""
    constrain = spectral_norm if config.spectral else nn.Identity()
    return nn.Sequential(
        constrain(nn.Conv2d(channels, config.width, 1, bias=False)),
        normalization(config.width),
        nn.LeakyReLU(0.2),
        constrain(nn.Conv2d(config.width, config.width, 3, padding=1, bias=False)),
        normalization(config.width),
        nn.LeakyReLU(0.2),
        constrain(nn.Conv2d(config.width, 1, 1)),
    )


def normalization(channels: int) -> nn.GroupNorm:
    """In batch-norm's place, one image at a time: the same at any batch size and on any rank."""
    return nn.GroupNorm(channels // GROUP, channels)
