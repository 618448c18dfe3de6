"""Discriminators: images in, one logit a position out; high means "real".

None of them mixes the images of a batch, so an image's logits are the same at any batch size; but a `DinoDiscriminator`
does where `together` asks for it, as the released one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from robustok.backbones.dino import DINO, DINOv2
from robustok.backbones.lite import LITE0, Lite
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
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; give a side in pixels, or None for images as they are")
        if not self.stages or not set(self.stages) <= set(range(1, len(LITE0.channels) + 1)):
            raise ValueError(f"stages is {self.stages}; name one or more of Lite0's stages 1 to {len(LITE0.channels)}")


@dataclass(frozen=True, kw_only=True)
class DinoDiscriminator:
    """Small trained heads on the tokens of a frozen DINO (Sauer et al. 2023, StyleGAN-T, arXiv 2301.09515, sec. 3.2).

    In the widths of the released tokenizer's (qiuk2/RobusTok).
    """

    network: DINO | DINOv2 = field(default_factory=DINO)  # whose tokens are judged
    after: tuple[int, ...] = (0, 3, 6, 9, 12)  # numbers of blocks after which there is a head; 0: before the first
    kernel: int = 9  # positions that a head's one wide convolution sees, along the raster order; odd
    spectral: bool = True  # whether every convolution of a head is kept at spectral norm 1
    together: int = 0  # images normalized together, as the released code's 8; 0: each on its own

    def __post_init__(self) -> None:
        depth = self.network.depth
        if not self.after or not set(self.after) <= set(range(depth + 1)):
            raise ValueError(f"after is {self.after}; name one or more numbers of blocks from 0 to {depth}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; give an odd number, to see as many positions on both sides")
        if self.together < 0:
            raise ValueError(f"together is {self.together}; give a number of images, or 0 to normalize each on its own")


AnyDiscriminator: TypeAlias = PatchGAN | FeatureDiscriminator | DinoDiscriminator


def check_width(width: int) -> None:
    if width < GROUP or width % GROUP:
        raise ValueError(f"width is {width}; give a multiple of {GROUP}, the channels normalized together")


def build_discriminator(config: AnyDiscriminator, backbone: nn.Module | None = None) -> nn.Module:
    """The module that takes Images to LogitMaps; `backbone` is the frozen network of a `DinoDiscriminator`."""
    match config:
        case PatchGAN():
            return PatchNetwork(config)
        case FeatureDiscriminator():
            return FeatureHeads(config)
        case DinoDiscriminator():
            assert backbone is not None, "a DinoDiscriminator judges the tokens of a network that is given"
            return TokenHeads(config, backbone)


@contextmanager
def activations(model: nn.Module) -> Iterator[list[Tensor]]:
    """For the while, a list that gets what each of a discriminator's trained layers but the last puts out."""
    found: list[Tensor] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.LeakyReLU)]
    hooks = [layer.register_forward_hook(lambda _layer, _given, output: found.append(output)) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


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
        self.backbone = Lite()
        self.heads = nn.ModuleList(head(LITE0.channels[stage - 1], config) for stage in self.stages)

    def forward(self, images: Images, maps: Sequence[Tensor] | None = None) -> LogitMaps:
        """Where the network's `maps` of the images are known already, they are not made again."""
        if maps is None and self.size is not None:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        maps = self.backbone(images, self.stages[-1]).stages if maps is None else maps
        logits = [head(maps[stage - 1]) for stage, head in zip(self.stages, self.heads, strict=True)]
        finest = logits[0].shape[-2:]
        return torch.cat([F.interpolate(logit, size=finest) for logit in logits], dim=1)


def head(channels: int, config: FeatureDiscriminator) -> nn.Sequential:
    """Features (b channels p q) to logits (b 1 p q), each of which sees 3 x 3 positions."""
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


def normalization(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """In batch-norm's place, one image at a time: the same at any batch size and on any rank."""
    return nn.GroupNorm(channels // GROUP, channels, eps)


class TokenHeads(nn.Module):
    """Logits (b heads p p), one head a chosen depth of the frozen network, in the order of the config.

    A head sees a position's token with the class token added.
    """

    def __init__(self, config: DinoDiscriminator, backbone: nn.Module) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        self.heads = nn.ModuleList(token_head(config) for _ in config.after)

    def forward(self, images: Images) -> LogitMaps:
        sequences = self.backbone(images, after=self.config.after).sequences
        tokens = [(sequence[:, 1:] + sequence[:, :1]).mT for sequence in sequences]  # (b c n)
        logits = torch.stack([head(x)[:, 0] for head, x in zip(self.heads, tokens, strict=True)], dim=1)
        side = self.config.network.side // self.config.network.patch
        return logits.unflatten(2, (side, side))


def token_head(config: DinoDiscriminator) -> nn.Sequential:
    """Tokens (b c n) to logits (b 1 n). Convolutions run along the raster order, which is taken as a circle."""
    constrain = spectral_norm if config.spectral else nn.Identity()
    c = config.network.width

    def layer(kernel: int) -> nn.Sequential:
        conv = nn.Conv1d(c, c, kernel, padding=kernel // 2, padding_mode="circular")
        norm = TogetherNorm(c, config.together) if config.together else normalization(c, eps=1e-6)
        return nn.Sequential(constrain(conv), norm, nn.LeakyReLU(0.2))

    return nn.Sequential(layer(1), HalfResidual(layer(config.kernel)), constrain(nn.Conv1d(c, 1, 1)))


class HalfResidual(nn.Module):
    """(x + f(x)) / sqrt(2), which keeps the variance where both are independent."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.inner(x)) * 0.5**0.5


class TogetherNorm(nn.Module):
    """Batch-norm over groups of `images` neighboring images, in training and evaluation alike (StyleGAN-T's).

    What is left of a batch after whole groups is a smaller group.
    """

    def __init__(self, channels: int, images: int) -> None:
        super().__init__()
        self.images = images
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        whole = len(x) // self.images * self.images
        groups = [x[:whole].unflatten(0, (-1, self.images)), x[whole:].unsqueeze(0)]
        x = torch.cat([self._normalized(group.float()).flatten(0, 1) for group in groups if group.numel()])
        return x * self.weight[:, None] + self.bias[:, None]

    def _normalized(self, x: Float[Tensor, "groups b c n"]) -> Float[Tensor, "groups b c n"]:
        variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-6)
