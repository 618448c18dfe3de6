"""Distance between images in the feature maps of a frozen network.

LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1): features are scaled to unit length at each place, their squared
difference is weighed by channel, averaged over space and summed over levels. Without weights, every channel's is 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Images, Scalar

Levels = tuple[Tensor, ...]  # features (b, c, h, w), one map a level


class Perceptual(nn.Module):
    """Perceptual distance of two batches of images: 0 for equal ones, and without weights at most 4 a level.

    `backbone(images, stages).stages` are the network's maps, as Lite0 and Vgg16 give them; the first `stages` of them
    count, and fewer are cheaper. `heads` are one weight per channel (c,) for each of these maps. Images are first
    resized (bilinear) to squares of `size` pixels, unless it is None.
    """

    def __init__(
        self, backbone: nn.Module, stages: int = 4, size: int | None = None, heads: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        if heads is not None and len(heads) != stages:
            raise ValueError(f"there are {len(heads)} heads for {stages} maps; give one head for each map")
        for i, head in enumerate(heads or ()):
            self.register_buffer(f"head_{i}", head, persistent=False)
        self.weighted = heads is not None
        self.backbone = backbone
        self.stages = stages
        self.size = size

    def levels(self, images: Images) -> Levels:
        """What is compared; pass it to `forward` instead of a target that is used more than once."""
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
        return tuple(self.backbone(images, self.stages).stages)

    def forward(self, target: Images | Levels, output: Images | Levels) -> Scalar:
        """Mean over the images. Gradients flow to `output` only when the target is given as images."""
        if isinstance(target, Tensor):
            with torch.no_grad():
                target = self.levels(target)
        return self.per_image(target, output).mean()

    def per_image(self, target: Images | Levels, output: Images | Levels) -> Float[Tensor, " b"]:
        """Each image's distance to its target."""
        target, output = (self.levels(x) if isinstance(x, Tensor) else x for x in (target, output))
        distances = []
        for i, (theirs, ours) in enumerate(zip(target, output, strict=True)):
            difference = (unit_length(ours) - unit_length(theirs)).square()
            if self.weighted:
                difference = difference * getattr(self, f"head_{i}").view(-1, 1, 1)
            distances.append(difference.sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(distances).sum(dim=0)


def unit_length(features: Tensor) -> Tensor:
    """Features (b c h w) divided by their length + 1e-10 at each place; zero stays zero, with a finite gradient."""
    features = features.float()
    length = features.square().sum(dim=1, keepdim=True).clamp_min(1e-30).sqrt()  # the root of 0 has no gradient
    return features / (length + 1e-10)
