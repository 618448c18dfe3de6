"""`inception`: the space of FID, sFID and the Inception Score.

As torch-fidelity 0.4 runs it, to rounding: uint8 to 299 pixels as TensorFlow 1 resizes, (pixel - 128) / 128, the 2048
pooled features; the 1008 logits without the classifier's bias, which torch-fidelity ("logits_unbiased") and ADM's
evaluator take for the Inception Score alike; and the spatial features of ADM's evaluator, in its order, so that its
reference files can be compared with.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from robustok.backbones.inception import SIDE, Inception
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import WeightFile, sha256
from robustok.shapes import to_images

WEIGHTS = WeightFile(
    title="FID's Inception",
    names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
    license="Apache-2.0",
)


class _InceptionSpace(nn.Module):
    def __init__(self, network: Inception) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Outputs:
        pooled, logits, spatial = self.network(to_images(pixels))
        return Outputs(pooled, logits, spatial)


def inception_space(weights: Path | None = None, *, device: torch.device | str = "cpu") -> NetworkExtractor:
    """Pooled features, logits and spatial features; `weights` is a file by the port's key names, if your own."""
    path = weights or WEIGHTS.path()
    network = Inception(read_tensors(path))
    about = {
        "features": "inception",
        "weights": sha256(path)[:16],
        "resize": f"bilinear as TensorFlow 1, to {SIDE} pixels",
    }
    return NetworkExtractor(_InceptionSpace(network), about, device=device)
