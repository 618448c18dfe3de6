"""Pixels to features: one extractor per feature space, each with its own resize, which is part of the metric."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.lite0 import Lite0, fingerprint
from robustok.shapes import Features, Images, Pixels, to_images


@runtime_checkable
class Extractor(Protocol):
    """Pixels (b 3 h w) uint8 -> Features (b f) float32, each image on its own."""

    name: str

    def __call__(self, pixels: Tensor) -> Features: ...
    def describe(self) -> dict[str, Any]:
        """What a score's protocol says of the features: space, weights, resize."""
        ...


class Outputs(NamedTuple):
    """All that metrics ask of one forward pass; what a space does not have is None."""

    features: Features  # (b f): Frechet and kernel distances, precision and recall
    logits: Features | None = None  # (b classes), of a classifier: the Inception Score is of their softmax
    spatial: Features | None = None  # (b s), features that know where they are: sFID


@runtime_checkable
class RichExtractor(Extractor, Protocol):
    """An extractor with more to give than its features, from the same forward pass."""

    def outputs(self, pixels: Tensor) -> Outputs: ...


def outputs(extract: Extractor, pixels: Tensor) -> Outputs:
    """Everything an extractor has to give of Pixels (b 3 h w); of most it is the features alone."""
    return extract.outputs(pixels) if isinstance(extract, RichExtractor) else Outputs(extract(pixels))


FeatureSpace: TypeAlias = Extractor | Callable[[Pixels], Features] | str


class Lite0Extractor:
    """The 1280 pooled features of EfficientNet-Lite0, trained on ImageNet.

    Images are resized to `size` bilinearly, with antialiasing where they shrink. Below 224 pixels, the size
    that the network was trained at, Frechet distances are relative: compare them with each other and with
    the distance between two sets of real images.
    """

    name = "lite0"

    def __init__(self, size: int = 64, batch_size: int = 64, device: torch.device | str = "cpu"):
        self.size, self.batch_size, self.device = size, batch_size, torch.device(device)
        self.network = Lite0().to(self.device)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        check_pixels(pixels)
        return torch.cat([self._features(part.to(self.device)) for part in pixels.split(self.batch_size)])

    def _features(self, pixels: Pixels) -> Features:
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 shifts distances by 1 %
            pooled = self.network(resize(to_images(pixels), self.size)).pooled
        return pooled.float()

    def describe(self) -> dict[str, Any]:
        return {
            "features": self.name,
            "weights": fingerprint()[:16],
            "resize": f"bilinear, antialiased, to {self.size} pixels",
        }


class CustomExtractor:
    """Any function from Pixels to Features, named after itself."""

    def __init__(self, function: Callable[[Pixels], Features], name: str | None = None):
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        check_pixels(pixels)
        features = self.function(pixels)
        if features.ndim != 2 or len(features) != len(pixels) or not features.is_floating_point():
            raise ValueError(
                f"{self.name} made a {tuple(features.shape)} tensor of {features.dtype} from {len(pixels)} "
                f"images; an extractor returns floats of shape ({len(pixels)}, features)"
            )
        return features.float()

    def describe(self) -> dict[str, Any]:
        return {"features": self.name}


def lite0(size: int = 64, *, batch_size: int = 64, device: torch.device | str = "cpu") -> Lite0Extractor:
    """The embedded default feature space."""
    return Lite0Extractor(size, batch_size, device)


def extractor(features: FeatureSpace, device: torch.device | str = "cpu") -> Extractor:
    """The extractor that a name or a function stands for; an extractor is returned as it is."""
    if isinstance(features, Extractor):
        return features
    if callable(features):
        return CustomExtractor(features)
    if features == "lite0":
        return lite0(device=device)
    raise ValueError(
        f"there is no feature space {features!r}; choose 'lite0' or give a function from pixels to features"
    )


def resize(images: Images, size: int) -> Float[Tensor, "b 3 {size} {size}"]:
    """Images of size x size pixels, bilinear; every pixel counts when they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def check_pixels(pixels: Tensor) -> None:
    """Raises ValueError for anything but uint8 (b 3 h w)."""
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"scores are computed from uint8 pixels, not from {pixels.dtype}; "
            "turn images in [-1, 1] into pixels with robustok.shapes.to_pixels"
        )
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(
            f"pixels have shape (images, 3, height, width), not {tuple(pixels.shape)}; "
            "repeat a gray channel three times, put channels before height"
        )
