"""Distance between images in the feature maps of a frozen network.

LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1) with every channel's weight 1: features are scaled to unit
length at each place, their squared difference is averaged over space and summed over levels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.shapes import Images, Scalar

Levels = tuple[Tensor, ...]  # features (b, c, h, w), one map a level


class Perceptual(nn.Module):
    """Perceptual distance of two batches of images: 0 for equal ones, at most 4 a level.

    `backbone(images, stages).stages` are the network's maps, as Lite0 gives them; the first `stages` of them count,
    and fewer are cheaper. Images are first resized (bilinear) to squares of `size` pixels, unless it is None.
    """

    def __init__(self, backbone: nn.Module, stages: int = 4, size: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages = stages
        self.size = size

    def levels(self, images: Images) -> Levels:
        """What is compared; pass it to `forward` instead of a target that is used more than once."""
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
        return tuple(self.backbone(images, self.stages).stages)

    def forward(self, target: Images | Levels, output: Images | Levels) -> Scalar:
        """Gradients flow to `output` only when the target is given as images."""
        if isinstance(target, Tensor):
            with torch.no_grad():
                target = self.levels(target)
        if isinstance(output, Tensor):
            output = self.levels(output)
        distances = [
            (unit_length(ours) - unit_length(theirs)).square().sum(dim=1).mean()
            for theirs, ours in zip(target, output, strict=True)
        ]
        return torch.stack(distances).sum()


def unit_length(features: Tensor) -> Tensor:
    """Features (b c h w) divided by their length at each place; zero stays zero, with a finite gradient."""
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + 1e-10).rsqrt()
