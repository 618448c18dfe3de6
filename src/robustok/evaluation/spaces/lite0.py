"""`lite0`: the 1280 pooled features of EfficientNet-Lite0, embedded.

Images are resized bilinearly, with antialiasing where they shrink. Below 224 pixels, the size that the network was
trained at, Frechet distances are relative: compare them with each other and with the distance between two sets of
real images.
"""

import torch
from torch import Tensor, nn

from robustok.backbones.lite0 import Lite0, fingerprint
from robustok.evaluation.features import LITE0_SIDES, NetworkExtractor, Outputs, resize
from robustok.shapes import to_images

SIDE = LITE0_SIDES[0]


class _Lite0Space(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.network = Lite0()

    def forward(self, pixels: Tensor) -> Outputs:
        return Outputs(self.network(resize(to_images(pixels), self.size)).pooled)


def lite0_space(size: int = SIDE, *, batch_size: int = 64, device: torch.device | str = "cpu") -> NetworkExtractor:
    """Pooled features at size x size pixels. Raises ValueError for less than 32 of them, which leave no map."""
    if size < 32:
        raise ValueError(f"Lite0 looks at 32 pixels or more, not {size}; choose lite0@32 to lite0@224, or lite0")
    about = {
        "features": "lite0" if size == SIDE else f"lite0@{size}",
        "weights": fingerprint()[:16],
        "resize": f"bilinear, antialiased, to {size} pixels",
    }
    return NetworkExtractor(_Lite0Space(size), about, batch_size=batch_size, device=device)
