"""Distance between images in the feature maps of a frozen network.

LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1): features are scaled to unit length at each position, their squared
difference is weighed by channel, averaged over space and summed over maps. Without weights, every channel's is 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Images, Scalar

FeatureMaps = tuple[Tensor, ...]  # features (b, c, h, w), the finest map first


class Perceptual(nn.Module):
    """Perceptual distance of two batches of images: 0 for equal ones, and without weights at most 4 a map.

    `backbone(images, maps).stages` are the network's maps, as Lite0 and Vgg16 give them; the first `maps` of them
    count, and fewer are cheaper. `lin_layers` are one weight per channel (c,) for each of these maps. Images are first
    resized (bilinear) to squares of `size` pixels, unless it is None.
    """

    def __init__(
        self, backbone: nn.Module, maps: int = 4, size: int | None = None, lin_layers: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        if lin_layers is not None and len(lin_layers) != maps:
            raise ValueError(f"there are {len(lin_layers)} lin layers for {maps} maps; give one for each map")
        for i, weights in enumerate(lin_layers or ()):
            self.register_buffer(f"lin_{i}", weights, persistent=False)
        self.weighted = lin_layers is not None
        self.backbone, self.maps, self.size = backbone, maps, size

    def feature_maps(self, images: Images) -> FeatureMaps:
        """The maps to compare; pass them to `forward` instead of a target that is used more than once."""
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
        return tuple(self.backbone(images, self.maps).stages)

    def forward(self, target: Images | FeatureMaps, output: Images | FeatureMaps) -> Scalar:
        """Mean over the images. Gradients flow to `output` only when the target is given as images."""
        if isinstance(target, Tensor):
            with torch.no_grad():
                target = self.feature_maps(target)
        return self.per_image(target, output).mean()

    def per_image(self, target: Images | FeatureMaps, output: Images | FeatureMaps) -> Float[Tensor, " b"]:
        """Each image's distance to its target."""
        target, output = (self.feature_maps(x) if isinstance(x, Tensor) else x for x in (target, output))
        distances = []
        for i, (theirs, ours) in enumerate(zip(target, output, strict=True)):
            difference = (unit_length(ours) - unit_length(theirs)).square()
            if self.weighted:
                difference = difference * getattr(self, f"lin_{i}").view(-1, 1, 1)
            distances.append(difference.sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(distances).sum(dim=0)


def gram_distance(target: FeatureMaps, output: FeatureMaps) -> Scalar:
    """How differently features occur together, wherever they are: 0 for maps of the same texture, at most 2 a map.

    Squared difference of Gram matrices, summed over maps, mean over images (Johnson et al. 2016, arXiv 1603.08155, eq.
    4). Here features are scaled to unit length at each position and the matrices averaged over positions, so that no
    network counts more for its numbers; GAR (arXiv 2609.24088) gives such a term a weight of 10, and how it scales the
    matrices was not at hand.
    """
    with torch.autocast(output[0].device.type, enabled=False):
        distances = [
            (_gram(theirs) - _gram(ours)).square().sum(dim=(1, 2)).mean()
            for theirs, ours in zip(target, output, strict=True)
        ]
    return torch.stack(distances).sum()


def _gram(features: Tensor) -> Float[Tensor, "b c c"]:
    flat = unit_length(features).flatten(2)  # (b c n)
    return flat @ flat.mT / flat.shape[2]


def unit_length(features: Tensor) -> Tensor:
    """Features (b c h w) divided by their length + 1e-10 at each position; zero stays zero, with a finite gradient."""
    features = features.float()
    length = features.square().sum(dim=1, keepdim=True).clamp_min(1e-30).sqrt()  # the root of 0 has no gradient
    return features / (length + 1e-10)
