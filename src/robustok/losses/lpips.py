"""LPIPS: how different two images look, by VGG-16 and weights fitted to human judgments.

Zhang et al. 2018 (arXiv 1801.03924), version 0.1 of its authors' weights on torchvision's VGG-16, images at the size
they come in. Taking the difference on pixels instead of on float images in [-1, 1] changes it by their rounding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.vgg import CONVS, LIN_LAYERS, LIN_NAMES, VGG16, Vgg16
from robustok.losses.perceptual import Perceptual
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import sha256


def lpips_distance(vgg: Path | None = None, lin_layers: Path | None = None) -> Perceptual:
    """LPIPS as a term to train with, from files of your own or the published ones.

    Raises ValueError when they cannot be had or hold something else.
    """
    lin_layers = lin_layers or LIN_LAYERS.path()
    return lpips_of(read_tensors(vgg or VGG16.path()), read_tensors(lin_layers), str(lin_layers))


def lpips_of(
    vgg: Mapping[str, Tensor],
    lin_layers: Mapping[str, Tensor],
    source: str,
    maps: int = len(CONVS),
    size: int | None = None,
) -> Perceptual:
    """LPIPS of weights by their published names, or the part of it in the first `maps`.

    Raises ValueError, naming the `source` of the lin layers, where these do not fit.
    """
    network = Vgg16(vgg)
    widths = [len(vgg[f"features.{convs[-1]}.bias"]) for convs in CONVS]
    found = [lin_layers[name].numel() if name in lin_layers else None for name in LIN_NAMES]
    if found != widths:
        raise ValueError(
            f"{source} holds no lin layers for VGG-16: {', '.join(LIN_NAMES)} should have {widths} weights, "
            f"but have {found}; take vgg.pth of version 0.1 of LPIPS"
        )
    return Perceptual(network, maps, size, [lin_layers[name].float().flatten() for name in LIN_NAMES[:maps]])


class LPIPS:
    """LPIPS of pairs of images, 0 for equal ones, on one device and `batch_size` pairs at a time."""

    def __init__(
        self,
        vgg: Path | None = None,
        lin_layers: Path | None = None,
        *,
        batch_size: int = 16,
        device: torch.device | str = "cpu",
    ):
        self.batch_size, self.device = batch_size, torch.device(device)
        self.distance = lpips_distance(vgg, lin_layers).to(self.device)
        self.about = {
            "network": "VGG-16",
            "version": "0.1",
            "weights": sha256(vgg or VGG16.path())[:16],
            "heads": sha256(lin_layers or LIN_LAYERS.path())[:16],  # as protocols of earlier scores call them
        }

    @torch.no_grad()
    def __call__(self, images: Tensor, outputs: Tensor) -> Float[Tensor, " b"]:
        """Each image (b 3 h w) in [-1, 1] against its reconstruction."""
        _check_pair(images, outputs)
        pairs = zip(images.split(self.batch_size), outputs.split(self.batch_size), strict=True)
        return torch.cat([self.distance.per_image(a.to(self.device), b.to(self.device)) for a, b in pairs])

    def describe(self) -> dict[str, Any]:
        """Entries of a score's protocol."""
        return dict(self.about)


def _check_pair(images: Tensor, outputs: Tensor) -> None:
    for batch in (images, outputs):
        if batch.ndim != 4 or batch.shape[1] != 3 or not batch.numel():
            raise ValueError(f"images have shape (images, 3, height, width), not {tuple(batch.shape)}; give RGB images")
        if not batch.is_floating_point():
            raise ValueError(
                f"LPIPS takes floats in [-1, 1], not {batch.dtype}; turn pixels into images with "
                "robustok.shapes.to_images"
            )
        if not batch.abs().max() <= 1 + 1e-3:  # nor NaN
            raise ValueError(
                f"LPIPS takes values in [-1, 1], but there are some from {batch.min():.4g} to {batch.max():.4g}; "
                "clamp the decoder's output, or scale pixels with robustok.shapes.to_images"
            )
    if images.shape != outputs.shape:
        raise ValueError(
            f"images of shape {tuple(images.shape)} cannot be compared with {tuple(outputs.shape)}; give each image "
            "beside its own reconstruction, at the same size"
        )
