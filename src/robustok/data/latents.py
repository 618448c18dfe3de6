"""The latents of a set of images, encoded once and read back: what a continuous generator is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from robustok.data.images import ImageSet, Indices
from robustok.data.shards import read_shards, write_shards
from robustok.data.tokens import encode_views, views_of
from robustok.shapes import Images, Labels, Latents
from robustok.tokenizer.tokenizer import ContinuousTokenizer


def encode_latents(
    tokenizer: ContinuousTokenizer,
    images: ImageSet,
    folder: str | Path,
    *,
    batch_size: int = 256,
    shard_size: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> "LatentCache":
    """A cache of every image's latents in float16, and of its mirror image's where the set may be flipped.

    Goes on where an earlier try stopped. `progress` is told how many images are done. Raises ValueError if the folder
    holds latents of another tokenizer or of other images, or if a latent is not finite in float16. Where the tokenizer
    has statistics (`latent_mean`, `latent_scale`), the manifest says by which its latents were normalized.
    """

    def encode(view: Images) -> Tensor:
        return as_half(tokenizer.encode(view.to(tokenizer.device)))

    manifest = {"tokenizer": tokenizer.fingerprint(), "images": images.describe(), "views": views_of(images)}
    for name in ("latent_mean", "latent_scale"):  # per channel
        if isinstance(told := getattr(tokenizer, name, None), Tensor):
            manifest[name] = told.tolist()
    make = partial(encode_views, "latents", encode, images, batch_size=batch_size)
    write_shards(Path(folder), "latents", manifest, len(images), make, shard_size=shard_size, progress=progress)
    return LatentCache(folder, tokenizer)


class LatentCache:
    """What `encode_latents` left in a folder, in memory, 2 bytes a number.

    `labels` are (count,), `fingerprint` is that of the tokenizer, `latent_shape` is (n, d).
    """

    def __init__(self, folder: str | Path, tokenizer: ContinuousTokenizer):
        """Raises ValueError if the folder is incomplete, or holds another tokenizer's latents."""
        manifest, tensors = read_shards(Path(folder), "latents")
        if manifest["tokenizer"] != tokenizer.fingerprint():
            raise ValueError(
                f"{folder} holds latents of tokenizer {manifest['tokenizer']}, not of {tokenizer.fingerprint()}; "
                "encode the images again into another folder"
            )
        self.fingerprint: str = manifest["tokenizer"]
        self.images: dict[str, object] = manifest["images"]  # what the set of images said of itself
        self.labels = tensors["labels"]
        self._latents = tensors["latents"]  # (count, views, n, d)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self._latents.shape[2], self._latents.shape[3]

    def latents(self, indices: Indices) -> Latents:
        """The latents of images as they are, never mirrored, in float32."""
        return self._latents[indices, 0].float()

    def batch(self, indices: Indices, generator: Generator) -> tuple[Latents, Labels]:
        """Latents and labels of images, each mirrored or not at random, where the set may be flipped."""
        return self.at(indices, torch.randint(self.views, indices.shape, generator=generator))

    @property
    def views(self) -> int:
        """How many ways each image is held."""
        return self._latents.shape[1]

    def at(self, indices: Indices, views: Indices) -> tuple[Latents, Labels]:
        """Latents and labels of images, each in the view given."""
        return self._latents[indices, views].float(), self.labels[indices]


def as_half(latents: Latents) -> Latents:
    """Latents in float16, on the CPU. Raises ValueError where that loses one to infinity, or where one is NaN."""
    half = latents.to("cpu", torch.float16)
    if not half.isfinite().all():
        raise ValueError(
            f"a latent is not finite in float16 (the largest is {latents.abs().max():.3g}); scale the tokenizer's "
            "latents to a standard deviation near 1, or look for broken images"
        )
    return half
