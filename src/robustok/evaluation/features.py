"""Pixels to features: one extractor per feature space, each with its own resize, which is part of the metric."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.evaluation.wording import counted
from robustok.shapes import Features, Images, Pixels

IN_PACKAGES = ("lite0", "lite1", "lite2", "vgg-hed")  # without a download: what trains in one is scored in others
SPACES = (*IN_PACKAGES, "inception", "dinov2", "dinov2-224", "clip", "siglip2", "mae", "convnextv2")

LITE0_SIDES = (64, 224)  # pixels at which the embedded space looks unless told; and at most where it decides
FULL = 16  # images from which on the batch size does not matter


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
    """Everything an extractor has to give of Pixels (b 3 h w); of most it is the features alone.

    Arrays of numpy become tensors. Raises ValueError for what is no float of shape (b, f).
    """
    found = extract.outputs(pixels) if isinstance(extract, RichExtractor) else Outputs(extract(pixels))
    features, *rest = found
    count, name = len(pixels), extract.name
    return Outputs(checked(name, features, count), *(x if x is None else checked(name, x, count) for x in rest))


def checked(name: str, made: object, count: int) -> Features:
    """What an extractor made of so many images, as float32. Raises ValueError for what is no float of shape (b, f)."""
    what = type(made).__name__
    if isinstance(made, Tensor | np.ndarray):
        what = f"{tuple(made.shape)} {'tensor' if isinstance(made, Tensor) else 'array'} of {made.dtype}"
        if made.ndim == 2 and len(made) == count:
            if isinstance(made, Tensor) and made.is_floating_point():
                return made.float()
            if isinstance(made, np.ndarray) and made.dtype.kind == "f":
                return torch.from_numpy(made.astype(np.float32))
    raise ValueError(
        f"{name} made a {what} from {counted(count, 'image')}; an extractor returns floats of shape ({count}, features)"
    )


FeatureSpace: TypeAlias = Extractor | Callable[[Pixels], Features] | str
FeatureSpaces: TypeAlias = FeatureSpace | Sequence[FeatureSpace]


class NetworkExtractor:
    """What a frozen network makes of pixels, `batch_size` images at a time, on its device and in float32.

    `network(pixels)` returns `Outputs`; `about` is what a score's protocol says of it. Batches are filled up to a
    multiple of 16: in smaller ones convolutions add up in another order, and a score would change in its sixth digit
    with the number of images that happen to come together.
    """

    def __init__(
        self, network: nn.Module, about: dict[str, Any], *, batch_size: int = 32, device: torch.device | str = "cpu"
    ):
        self.name = str(about["features"])
        self.about, self.batch_size, self.device = about, batch_size, torch.device(device)
        self.network = network.to(self.device).eval()

    def __call__(self, pixels: Tensor) -> Features:
        return self.outputs(pixels).features

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> Outputs:
        check_pixels(pixels)
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 shifts distances by 1 %
            parts = [self._filled(part.to(self.device)) for part in pixels.split(self.batch_size)]
        columns = zip(*parts, strict=True)
        features, logits, spatial = (None if column[0] is None else torch.cat(column) for column in columns)
        assert features is not None
        return Outputs(features, logits, spatial)

    def _filled(self, pixels: Pixels) -> list[Tensor | None]:
        missing = -len(pixels) % min(FULL, self.batch_size)
        found: Outputs = self.network(torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)]))
        return [None if part is None else part[: len(pixels)] for part in found]

    def describe(self) -> dict[str, Any]:
        return dict(self.about)


class CustomExtractor:
    """Any function from Pixels to Features, as a tensor or an array of numpy, named after itself."""

    def __init__(self, function: Callable[[Pixels], Features], name: str | None = None):
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        check_pixels(pixels)
        return checked(self.name, self.function(pixels), len(pixels))

    def describe(self) -> dict[str, Any]:
        return {"features": self.name}


def lite0(size: int = LITE0_SIDES[0], *, batch_size: int = 64, device: torch.device | str = "cpu") -> NetworkExtractor:
    """The embedded default feature space."""
    from robustok.evaluation.spaces.lite import lite0_space

    return lite0_space(size, batch_size=batch_size, device=device)


def deciding_space(side: int) -> str:
    """The embedded space that looks at images of that side in pixels whole: no finer detail goes unseen.

    At 64 pixels, as scores are by default, what an error of a decoder does to the finest details of larger images
    averages out. Smaller images are enlarged to 64; above 224, the side that the network was trained at, they shrink.
    """
    least, most = LITE0_SIDES
    return "lite0" if side <= least else f"lite0@{min(side, most)}"


def extractor(features: FeatureSpace, device: torch.device | str = "cpu") -> Extractor:
    """The extractor that a name or a function stands for; an extractor is returned as it is.

    A name is one of `SPACES`, or one with weights of your own: "inception:/path/to/weights.pth"; "lite0@224" is lite0
    at 224 pixels rather than 64. Raises ValueError for any other, and when the weights cannot be had.
    """
    if isinstance(features, Extractor):
        return features
    if callable(features):
        return CustomExtractor(features)
    name, _, given = features.partition(":")
    weights = Path(given) if given else None
    match name:
        case "lite0" if weights is None:
            return lite0(device=device)
        case "lite1" | "lite2" if weights is None:
            from robustok.backbones.lite import LITE1, LITE2
            from robustok.evaluation.spaces.lite import lite_space

            return lite_space(LITE1 if name == "lite1" else LITE2, device=device)
        case "vgg-hed" if weights is None:
            from robustok.evaluation.spaces.vgg_hed import vgg_hed_space

            return vgg_hed_space(device=device)
        case _ if weights is None and (side := re.fullmatch(r"lite0@([0-9]{1,4})", name)):
            return lite0(int(side[1]), device=device)
        case "inception":
            from robustok.evaluation.spaces.inception import inception_space

            return inception_space(weights, device=device)
        case "dinov2" | "dinov2-224":
            from robustok.evaluation.spaces.dinov2 import dinov2_224_space, dinov2_space

            return (dinov2_space if name == "dinov2" else dinov2_224_space)(weights, device=device)
        case "clip":
            from robustok.evaluation.spaces.clip import clip_space

            return clip_space(weights, device=device)
        case "siglip2":
            from robustok.evaluation.spaces.siglip2 import siglip2_space

            return siglip2_space(weights, device=device)
        case "mae":
            from robustok.evaluation.spaces.mae import mae_space

            return mae_space(weights, device=device)
        case "convnextv2":
            from robustok.evaluation.spaces.convnextv2 import convnextv2_space

            return convnextv2_space(weights, device=device)
    raise ValueError(
        f"there is no feature space {features!r}; choose {', '.join(SPACES[:-1])} or {SPACES[-1]}, all but "
        f"{', '.join(IN_PACKAGES)} also with weights of your own (inception:/path/to/weights.pth), or give a function "
        "from pixels to features"
    )


def extractors(features: FeatureSpaces, device: torch.device | str = "cpu") -> list[Extractor]:
    """One or several. Raises ValueError for none."""
    several = features if isinstance(features, Sequence) and not isinstance(features, str) else [features]
    if not several:
        raise ValueError("there is no feature space to score in; name at least one")
    return [extractor(space, device) for space in several]


def resize(images: Images, size: int) -> Float[Tensor, "b 3 {size} {size}"]:
    """Images of size x size pixels, bilinear; every pixel counts when they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def side_within(images: Tensor, smallest: int, largest: int) -> int:
    """The longer side of images (b c h w), no less and no more than the limits."""
    return min(max(*images.shape[-2:], smallest), largest)


def check_pixels(pixels: Tensor) -> None:
    """Raises ValueError for anything but uint8 (b 3 h w), with at least one image and one pixel in it."""
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
    if not pixels.numel():
        raise ValueError(f"there is no pixel in a batch of shape {tuple(pixels.shape)}; give at least one image")
