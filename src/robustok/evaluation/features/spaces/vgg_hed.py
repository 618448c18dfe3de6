"""`vgg-hed`: 256 features, the mean over positions of relu3_3 of the embedded VGG-16 trunk.

Its network knows nothing of EfficientNet-Lite0: other layers, other training. Images are resized bilinearly, with
antialiasing where they shrink, to a square of their own longer side, within limits.
"""

import torch
from torch import Tensor, nn

from robustok.backbones.vgg import hed_fingerprint, vgg_hed
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs, resize, side_within
from robustok.shapes import to_images

SMALLEST, LARGEST = 32, 224  # side in pixels


class _VggHedSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = vgg_hed()

    def forward(self, pixels: Tensor) -> Outputs:
        images = resize(to_images(pixels), side_within(pixels, SMALLEST, LARGEST))
        return Outputs(self.network(images).stages[-1].mean(dim=(2, 3)))


def vgg_hed_space(*, batch_size: int = 64, device: torch.device | str = "cpu") -> NetworkExtractor:
    """The mean of relu3_3, at the images' own size from 32 to 224 pixels."""
    about = {
        "features": "vgg-hed",
        "network": "VGG-16 as HED fine-tuned it, mean of relu3_3",
        "weights": hed_fingerprint()[:16],
        "resize": f"bilinear, antialiased, to squares of the longer side, {SMALLEST} to {LARGEST} pixels",
    }
    limits = SMALLEST, LARGEST
    return NetworkExtractor(_VggHedSpace(), about, limits=limits, batch_size=batch_size, device=device)
