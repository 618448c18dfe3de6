"""Pixels to features: one extractor per feature space, each with its own resize, which is part of the metric."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.evaluation.features.functions import name_of, network_of, networks_in, weights_of
from robustok.layers import evaluating
from robustok.runtime.words import counted, reason
from robustok.shapes import Features, Images, Pixels

FULL = 16  # images from which on the batch size does not matter
PLAIN = {"dtype": "float32", "compiled": "no"}  # what protocols that do not say so mean
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # that networks compute in


@runtime_checkable
class Extractor(Protocol):
    """Pixels (b 3 h w) uint8 -> Features (b f) float32, each image on its own."""

    name: str

    def __call__(self, pixels: Tensor) -> Features: ...
    def describe(self) -> dict[str, Any]:
        """Entries of a score's protocol: space, weights, resize."""
        ...


class Outputs(NamedTuple):
    """All that metrics ask of one forward pass; what a space does not have is None."""

    features: Features  # (b f): Frechet and kernel distances, precision and recall
    logits: Features | None = None  # (b classes), of a classifier: the Inception Score is of their softmax
    spatial: Features | None = None  # (b s), features that know where they are: sFID
    side: int | None = None  # pixels of the square that was looked at, where it follows the images' own size


@runtime_checkable
class RichExtractor(Extractor, Protocol):
    """An extractor with more to give than its features, from the same forward pass."""

    def outputs(self, pixels: Tensor) -> Outputs: ...


def outputs(extract: Extractor, pixels: Tensor) -> Outputs:
    """Everything an extractor has to give of Pixels (b 3 h w); of most it is the features alone.

    Arrays of numpy become tensors; one that is a module is in evaluation mode. Raises ValueError for what is no float
    of shape (b, f).
    """
    with evaluating(extract):
        found = Outputs(*extract.outputs(pixels)) if isinstance(extract, RichExtractor) else Outputs(extract(pixels))
    count, name = len(pixels), extract.name
    logits, spatial = (x if x is None else checked(name, x, count) for x in found[1:3])
    return Outputs(checked(name, found.features, count), logits, spatial, found.side)


def in_batches(network: Callable[[Pixels], Outputs], pixels: Pixels, size: int, fill: int) -> Outputs:
    """Outputs of `size` images at a time, each batch filled up with its last image to a multiple of `fill`."""
    parts = []
    for part in pixels.split(size):
        missing = -len(part) % fill
        found = network(torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]))
        parts.append([None if x is None else x[: len(part)] for x in found[:3]])
    widths = {part[0].shape[1] for part in parts if part[0] is not None}
    if len(widths) > 1:
        told = " and ".join(map(str, sorted(widths)))
        raise ValueError(f"an extractor made {told} features of images of one set; it returns as many of each")
    features, logits, spatial = (None if x[0] is None else torch.cat(x) for x in zip(*parts, strict=True))
    assert features is not None
    return Outputs(features, logits, spatial, found.side)


def checked(name: str, made: object, count: int) -> Features:
    """Features that an extractor made of images, as float32. Raises ValueError for what is no float of shape (b, f)."""
    what = type(made).__name__
    if isinstance(made, Tensor | np.ndarray):
        what = f"{tuple(made.shape)} {'tensor' if isinstance(made, Tensor) else 'array'} of {made.dtype}"
        if made.ndim == 2 and len(made) == count and made.shape[1]:
            if isinstance(made, Tensor) and made.is_floating_point():
                return made.float()
            if isinstance(made, np.ndarray) and made.dtype.kind == "f":
                return torch.from_numpy(made.astype(np.float32))
    raise ValueError(
        f"{name} made a {what} from {counted(count, 'image')}; an extractor returns floats of shape ({count}, features)"
    )


class NetworkExtractor:
    """Features that a frozen network makes of pixels, `batch_size` images at a time, on its device and in float32.

    `network(pixels)` returns `Outputs`; `about` is what a score's protocol says of it. `faster` computes in another
    format, or compiled. `limits` are those within which
    the network looks at images at their own size; streams and scores tell the side that was used. Batches are filled up
    to a multiple of 16: in smaller ones convolutions add up in another order, and a score would change in its sixth
    digit with the number of images that happen to come together.
    """

    def __init__(
        self,
        network: nn.Module,
        about: dict[str, Any],
        *,
        limits: tuple[int, int] | None = None,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
    ):
        self.name, self.limits = str(about["features"]), limits
        self.about, self.batch_size, self.device = about, batch_size, torch.device(device)
        self.network = network.to(self.device).eval()
        self.backend = ""  # of torch.compile

    def faster(self, dtype: str = "float32", compile: str | None = None) -> "NetworkExtractor":
        """This extractor from now on in half precision, or compiled by a backend of `torch.compile`, or both.

        Weights and what is computed are then in that format, images are resized before in float32 and features come as
        float32. The protocol says either, so that scores which differ in it are not compared. Raises ValueError for a
        format that is none of `DTYPES`.
        """
        if dtype not in DTYPES:
            raise ValueError(f"there is no format {dtype!r} for features; choose {', '.join(DTYPES)}")
        self.network.to(DTYPES[dtype])
        self.backend = compile or ""
        told = {"dtype": dtype, "compiled": compile or PLAIN["compiled"]}
        self.about = self.about | {name: value for name, value in told.items() if value != PLAIN[name]}
        with self._compiling():
            if compile:
                self.network.compile(backend=compile)
        return self

    def __call__(self, pixels: Tensor) -> Features:
        return self.outputs(pixels).features

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> Outputs:
        check_pixels(pixels)
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 shifts distances by 1 %
            found = in_batches(self._network, pixels, self.batch_size, min(FULL, self.batch_size))
        return found if self.limits is None else found._replace(side=side_within(pixels, *self.limits))

    def _network(self, pixels: Pixels) -> Outputs:
        with self._compiling():
            made: Outputs = self.network(pixels.to(self.device))
        return Outputs(*(None if x is None else x.float() for x in made[:3]))  # type: ignore[arg-type]

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """Raises ValueError where there is no such backend, no compiler here, or a network too hard for it."""
        if not self.backend:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException

        try:
            yield
        except TorchDynamoException as error:
            raise ValueError(
                f"{self.name} could not be compiled by {self.backend} ({reason(error)}); score without compiling"
            ) from error

    def describe(self) -> dict[str, Any]:
        return dict(self.about)


class CustomExtractor:
    """Any function from Pixels to Features, as a tensor or an array of numpy, named after itself.

    A network, and those that a function calls, are in evaluation mode for the while. The protocol of a network tells
    its weights.
    """

    def __init__(self, function: Callable[[Pixels], Features], name: str | None = None):
        self.function = function
        self.name = name or name_of(function)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        check_pixels(pixels)
        with evaluating(self._networks):
            made = checked(self.name, self.function(pixels), len(pixels))
        if bad := int((~made.isfinite().all(dim=1)).sum()):
            raise ValueError(f"{self.name} made NaN or infinity from {bad} of {counted(len(pixels), 'image')}")
        return made

    @cached_property
    def _networks(self) -> nn.ModuleList:
        return nn.ModuleList(networks_in(self.function))

    def describe(self) -> dict[str, Any]:
        network = network_of(self.function)
        return {"features": self.name} | ({"weights": weights_of(network)} if network is not None else {})


def from_numpy(
    function: Callable[[np.ndarray], np.ndarray], name: str | None = None, *, floats: bool = False
) -> CustomExtractor:
    """An extractor of a function of arrays: images (n h w 3), uint8 or `floats` in [0, 1], to features (n d).

    As scikit-image, OpenCV or your own code take images. It is named after the function unless told, for protocols; it
    gets an array of its own, 50 images at a time. Features are floats of any size, each image's from that image alone.
    While it is used, ValueError is raised for what is no float array of shape (n, d), and for NaN and infinity.
    """
    if not callable(function):
        raise ValueError(f"{function!r} is no function; give one from images (n h w 3) to features (n d)")

    @functools.wraps(function, assigned=(), updated=())  # so that networks in it are found
    def features(pixels: Pixels) -> Any:
        images = pixels.permute(0, 2, 3, 1).cpu().numpy().copy()
        return function(images.astype(np.float32) / 255 if floats else images)

    return CustomExtractor(features, name or name_of(function))


def resize_images(images: Images, size: int) -> Float[Tensor, "b 3 {size} {size}"]:
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
