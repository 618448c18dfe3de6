"""Real images to score against: their statistics, a sample of their features, and what they are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustok.evaluation.feature_stream import KEPT, FeatureStream
from robustok.evaluation.features import FeatureSpace, extractor
from robustok.evaluation.fid import FeatureStats
from robustok.runtime.checkpoint import write_bytes
from robustok.shapes import Features, Images, to_pixels

Progress = Callable[[int, int], None]  # told how many images are done, and of how many


@runtime_checkable
class ImageSource(Protocol):
    """What is scored: images by index, and what they are (their hash among it)."""

    def __len__(self) -> int: ...
    def images(self, indices: Int[Tensor, " b"]) -> Images: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Feature statistics of real images, with what a score's protocol says of them."""

    stats: FeatureStats
    sample: Features  # (some images, f), evenly spaced, for precision, recall and kernel distances
    images: dict[str, Any]  # what the images are, their hash among it
    space: dict[str, Any]  # what the features are

    @classmethod
    def of(
        cls,
        images: ImageSource,
        features: FeatureSpace = "lite0",
        *,
        keep: int = KEPT,
        batch_size: int = 250,
        progress: Progress | None = None,
    ) -> "Reference":
        """The reference that `images` are, `keep` of them at most as a sample."""
        extract = extractor(features)
        stream = FeatureStream(extract.describe(), keep)
        for indices in torch.arange(len(images)).split(batch_size):
            stream.add(extract(to_pixels(images.images(indices))))
            if progress is not None:
                progress(stream.count, len(images))
        return cls(stats=stream.stats, sample=stream.sample, images=images.describe(), space=stream.space)

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
        about = {"count": self.stats.count, "images": self.images, "space": self.space}
        write_bytes(path, save(tensors, {"robustok": "reference", "about": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """What `save` wrote. Raises ValueError for a file that is missing, damaged or no reference."""
        remedy = "give a file that Reference.save wrote, or make the reference again from its images"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("robustok") != "reference":
                    raise ValueError(f"{path} holds no reference statistics; {remedy}")
                mean, scatter, sample = (file.get_tensor(name) for name in ("mean", "scatter", "sample"))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {remedy}") from error
        about = json.loads(metadata["about"])
        stats = FeatureStats(about["count"], mean, scatter)
        return cls(stats=stats, sample=sample, images=about["images"], space=about["space"])
