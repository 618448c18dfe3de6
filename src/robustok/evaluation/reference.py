"""Real images to score against: their statistics, a sample of their features, and what they are."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustok.evaluation.feature_stream import KEPT, SAMPLES, FeatureStream, extracted
from robustok.evaluation.features import FeatureSpace, extractor
from robustok.evaluation.fid import FeatureStats
from robustok.evaluation.wording import counted
from robustok.runtime.checkpoint import write_bytes
from robustok.runtime.distributed import from_main, rank, world_size
from robustok.runtime.seeding import spread
from robustok.shapes import Features, Images, Pixels, to_pixels

Progress = Callable[[int, int], None]  # told how many images are done, and of how many

BLOCK = 250  # images that are read at once
LOOKED_AT = 20  # images, spread over a set, that tell its range


@runtime_checkable
class ImageSource(Protocol):
    """What is scored: images by index, and what they are (their hash among it).

    A source whose `known_range` is True, as those of files, is not asked whether it might be in [0, 1].
    """

    def __len__(self) -> int: ...
    def images(self, indices: Int[Tensor, " b"]) -> Images: ...
    def describe(self) -> dict[str, Any]: ...


def pixels_of(images: Images) -> Pixels:
    """Images in [-1, 1] as pixels. Raises ValueError for NaN and for what is plainly in another range."""
    if images.isnan().any():
        raise ValueError("the images hold NaN; look for broken files")
    low, high = float(images.min()), float(images.max())
    if low < -1.001 or high > 1.001:
        raise ValueError(f"images run from {low:.3g} to {high:.3g}; scale them to [-1, 1]: pixels / 127.5 - 1")
    return to_pixels(images)


def check_range(images: ImageSource) -> None:
    """Raises ValueError for images in [0, 1], which no single image gives away: none of many is half dark.

    It is a guess, for arrays that somebody scaled; the bytes of files say themselves what is black.
    """
    if len(images) < 2:
        raise ValueError(f"{counted(len(images), 'image')} cannot be scored; give at least two, better some thousands")
    if getattr(images, "known_range", False) or len(images) < LOOKED_AT:
        return
    some = images.images(spread(LOOKED_AT, len(images)))
    if some.min() >= 0:
        raise ValueError(
            f"images run from {float(some.min()):.3g} to {float(some.max()):.3g}, as if 0 were black; scale them to "
            "[-1, 1]: 2 * images - 1; or, where they are that bright, give the set an attribute known_range = True"
        )


def stream_of(
    images: ImageSource,
    features: FeatureSpace = "lite0",
    *,
    keep: int = KEPT,
    batch_size: int = BLOCK,
    progress: Progress | None = None,
) -> FeatureStream:
    """The features of all images. Several processes share the work; the main one has the result."""
    check_range(images)
    extract = extractor(features)
    stream = FeatureStream(extract.describe(), keep)
    shares = torch.arange(len(images)).split(batch_size)[rank() :: world_size()]
    for indices in shares:
        stream.add(extracted(extract, pixels_of(images.images(indices))), indices)
        if progress is not None:
            progress(stream.count, sum(map(len, shares)))
    return stream.together()


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Feature statistics of real images, with what a score's protocol says of them."""

    stats: FeatureStats
    sample: Features  # (some images, f), as if drawn, for precision, recall and kernel distances; may be none
    images: dict[str, Any]  # what the images are, their hash among it
    space: dict[str, Any]  # what the features are
    spatial: FeatureStats | None = None  # of the spatial features, for sFID, where the space has them

    @classmethod
    def of(
        cls,
        images: ImageSource,
        features: FeatureSpace = "lite0",
        *,
        keep: int = KEPT,
        batch_size: int = BLOCK,
        progress: Progress | None = None,
    ) -> "Reference":
        """The reference that `images` are, `keep` of them at most as a sample. Several processes share the work."""
        stream = stream_of(images, features, keep=keep, batch_size=batch_size, progress=progress)
        return from_main(
            lambda: cls(
                stats=stream.stats,
                sample=stream.sample,
                images=images.describe(),
                space=stream.space,
                spatial=stream.spatial,
            )
        )

    def check_space(self, space: dict[str, Any]) -> None:
        """Raises ValueError when features of another space are about to be scored against this reference."""
        for name in {**self.space, **space}:
            if self.space.get(name) != space.get(name):
                raise ValueError(
                    f"the reference was computed with {name} {self.space.get(name)!r}, the images to score "
                    f"with {space.get(name)!r}; compute both with the same extractor"
                )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {"mean": self.stats.mean, "scatter": self.stats.scatter, "sample": self.sample}
        if self.spatial:
            tensors |= {"spatial_mean": self.spatial.mean, "spatial_scatter": self.spatial.scatter}
        about = {"count": self.stats.count, "images": self.images, "space": self.space, "samples": SAMPLES}
        write_bytes(path, save(tensors, {"robustok": "reference", "about": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """What `save` wrote. Raises ValueError for a file that is missing, damaged or no reference.

        A sample of every n-th image, as was once taken, may miss classes; it is left out, with a warning.
        """
        remedy = "give a file that Reference.save wrote, or make the reference again from its images"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("robustok") != "reference":
                    raise ValueError(f"{path} holds no reference statistics; {remedy}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {remedy}") from error
        about, sample = json.loads(metadata["about"]), tensors["sample"]
        if about.get("samples") != SAMPLES and len(sample) < about["count"]:
            warnings.warn(
                f"the sample in {path} is of every n-th image, which may miss classes, and so is left out; make the "
                "reference again to have precision, recall and the like",
                stacklevel=2,
            )
            sample = sample[:0]

        def stats(prefix: str) -> FeatureStats:
            return FeatureStats(about["count"], tensors[f"{prefix}mean"], tensors[f"{prefix}scatter"])

        return cls(
            stats=stats(""),
            sample=sample,
            images=about["images"],
            space=about["space"],
            spatial=stats("spatial_") if "spatial_mean" in tensors else None,
        )
