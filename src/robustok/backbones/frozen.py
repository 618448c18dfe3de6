"""Shared parts of the frozen networks: their result, a convolution by given weights, batch-norm folded into it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.shapes import Images


class FeatureMaps(NamedTuple):
    """The result of a convolutional network."""

    stages: tuple[Tensor, ...]  # each stage's map (b, c, h, w), the finest first
    pooled: Tensor | None = None  # (b, c); None where there is none, or the network was stopped after a stage


def check_stages(network: str, stages: int, there: int, images: Images, least: int) -> None:
    """Raises ValueError for stages that a network does not have, or images with sides below the `least` for them."""
    if not 1 <= stages <= there:
        raise ValueError(f"stages is {stages}, but {network} has {there}; ask for 1 to {there}, or None")
    if (side := min(images.shape[-2:])) < least:
        raise ValueError(
            f"{stages} stages of {network.removeprefix('this ')} need sides of {least} pixels or more, but an image "
            f"has {side}; resize the images or ask for fewer stages"
        )


class FrozenConv(nn.Module):
    """Convolution by given weights; one input channel in them means one filter per channel.

    Sides stay as they are at stride 1, unless `padding` (rows, columns) says otherwise.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, padding: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.stride = stride
        self.padding = ((weight.shape[-2] - 1) // 2, (weight.shape[-1] - 1) // 2) if padding is None else padding
        self.groups = weight.shape[0] if weight.shape[1] == 1 else 1
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


def folded(state: Mapping[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its batch-norm (epsilon 1e-3) folded in: float64, rounded at the end."""
    names = ("weight", "bias", "running_mean", "running_var")
    gain, shift, mean, variance = (state[f"{norm}.{name}"].double() for name in names)
    gain = gain / (variance + 1e-3).sqrt()
    weight = state[f"{conv}.weight"].double() * gain.view(-1, 1, 1, 1)
    return weight.float().contiguous(memory_format=torch.channels_last), (shift - mean * gain).float()


def freeze(module: nn.Module) -> nn.Module:
    """The module with its weights as buffers outside the state dict: neither trained nor saved, in evaluation mode."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                del part._parameters[name]
                part.register_buffer(name, weight.detach(), persistent=False)
    return module.eval()
