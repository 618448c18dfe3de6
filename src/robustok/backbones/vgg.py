"""VGG-16 as a frozen feature network: all of it for LPIPS, or its first three stages, which are embedded.

Simonyan & Zisserman 2014 (arXiv 1409.1556, configuration D), by the key names of torchvision's `vgg16`. The maps are
those that LPIPS compares: after the last ReLU in front of each pooling. The embedded ones were trained on ImageNet and
fine-tuned for holistically-nested edge detection (HED; Xie & Tu 2015, arXiv 1504.06375). Their source, licenses and how
the file was made: `vgg_hed_weights/README.md` beside this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from robustok.backbones.frozen import FeatureMaps, FrozenConv, check_stages
from robustok.runtime.weights import WeightFile
from robustok.shapes import Images

CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # numbers of the convolutions in each stage
LIN_NAMES = tuple(f"lin{i}.model.1.weight" for i in range(len(CONVS)))  # names of the weights of LPIPS
HED_STAGES = 3  # conv1_1 to conv3_3; the others would take eight times the space
HED_MEAN = (122.679, 116.669, 104.007)  # red, green, blue of 255, which HED's network takes off
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS' scaling layer, of values in [-1, 1]

VGG16 = WeightFile(
    title="torchvision's VGG-16",
    names=("vgg16-397923af.pth",),
    url="https://s3.amazonaws.com/pytorch/models/vgg16-397923af.pth",  # its first address; torchvision caches it, too
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    size=553_433_881,
    license="BSD-3-Clause",
)
LIN_LAYERS = WeightFile(
    title="the lin layers of LPIPS 0.1 on VGG-16",
    names=("weights-vgg16-lpips.pth", "vgg-v0.1.pth"),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    size=7_289,
    license="BSD-2-Clause",
)


@dataclass(frozen=True, kw_only=True)
class LPIPSVGG:
    """VGG-16 with the lin layers of LPIPS 0.1, which were fitted to human judgments (arXiv 1801.03924)."""

    weights: str = "published"  # of VGG-16: published; random, to try a path without a download; or a file
    lin_layers: str = "published"  # of LPIPS: published; random; or a file
    width: int = 64  # channels of VGG's first stage; later ones have 2, 4, 8 and 8 times as many

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; VGG-16 has 64 channels in its first stage")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * times for times in (1, 2, 4, 8, 8))


class Vgg16(nn.Module):
    """Feature maps at five strides of images in [-1, 1], at the size they come in.

    Map i is (b, c, h / 2^i, w / 2^i), sides rounded down; c is 64, 128, 256, 512, 512.
    Made from a state dict by its published key names; channel counts are read from the tensors, and neither the
    classifier nor stages after the first `stages` are needed. The network is given (images - shift) / scale, by default
    LPIPS' values. Nothing in it is trained or saved. Gradients flow to the images. It runs in float32, under autocast
    too. Raises ValueError when convolutions are missing.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        state: Mapping[str, Tensor],
        *,
        stages: int = len(CONVS),
        shift: Sequence[float] = SHIFT,
        scale: Sequence[float] = SCALE,
    ) -> None:
        super().__init__()
        convs = CONVS[:stages]
        keys = [f"features.{i}.{name}" for stage in convs for i in stage for name in ("weight", "bias")]
        if missing := [key for key in keys if key not in state]:
            raise ValueError(
                f"these are not the weights of VGG-16: {len(missing)} of {len(keys)} missing {missing[:3]}; "
                "take torchvision's vgg16, without batch-norm"
            )
        self.stages = nn.ModuleList(_stage(state, numbers) for numbers in convs)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)

    def forward(self, images: Images, stages: int | None = None) -> FeatureMaps:
        """The first `stages` maps, or all that there are."""
        there = len(self.stages)
        stages = there if stages is None else stages
        check_stages("this VGG-16", stages, there, images, 2 ** max(0, stages - 1))
        with torch.autocast(images.device.type, enabled=False):
            x = (images.to(self.shift.dtype, memory_format=torch.channels_last) - self.shift) / self.scale
            maps: list[Tensor] = []
            for i, stage in enumerate(self.stages[:stages]):
                x = F.max_pool2d(x, 2) if i > 0 else x
                x = stage(x)
                maps.append(x)
        return FeatureMaps(tuple(maps))


def _stage(state: Mapping[str, Tensor], numbers: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in numbers:
        weight, bias = state[f"features.{i}.weight"].float(), state[f"features.{i}.bias"].float()
        layers += [FrozenConv(weight.contiguous(memory_format=torch.channels_last), bias), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def random_vgg_weights(config: LPIPSVGG) -> dict[str, Tensor]:
    """Weights as a ReLU network starts, by the published names: the same every time, from no global randomness."""
    state: dict[str, Tensor] = {}
    before = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for width, numbers in zip(config.widths, CONVS, strict=True):
            for i in numbers:
                state[f"features.{i}.weight"] = (2 / (9 * before)) ** 0.5 * torch.randn(width, before, 3, 3)
                state[f"features.{i}.bias"] = torch.zeros(width)
                before = width
    return state


def random_lin_layers(config: LPIPSVGG) -> dict[str, Tensor]:
    """Every channel counts alike, by the published names."""
    return {name: torch.full((1, c, 1, 1), 1 / c) for name, c in zip(LIN_NAMES, config.widths, strict=True)}


@dataclass(frozen=True, kw_only=True)
class VGGHED:
    """The embedded VGG-16 trunk, three maps, as edge detection (HED) fine-tuned it: nothing to download or to set."""


def vgg_hed() -> Vgg16:
    """The embedded network, of images in [-1, 1]; its maps are relu1_2, relu2_2 and relu3_3 at stride 1, 2, 4."""
    shift = tuple(mean / 127.5 - 1 for mean in HED_MEAN)
    return Vgg16(_hed_weights(), stages=HED_STAGES, shift=shift, scale=(1 / 127.5,) * 3)


def hed_weight_file() -> Traversable:
    """The embedded file: half precision, by the key names of torchvision's `vgg16`, channels in the order RGB."""
    return files("robustok.backbones") / "vgg_hed_weights" / "conv1_1-conv3_3.safetensors"


@cache
def _hed_weights() -> dict[str, Tensor]:
    return load(hed_weight_file().read_bytes())
