"""The latents of a set of images, encoded once and read back: what a continuous generator is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from robustok.data.caches import LABEL, CachedViews, Crops, about_views, begun_with, encode_views, views_of
from robustok.data.images import ImageSet, Indices
from robustok.data.shards import write_shards
from robustok.layers import check_float32
from robustok.shapes import Images, Labels, Latents
from robustok.tokenizer.protocol import TokenizerLike


def encode_latents(
    tokenizer: TokenizerLike,
    images: ImageSet,
    folder: str | Path,
    *,
    crops: Crops = 1,
    batch_size: int = 256,
    shard_size: int = 4096,
    announce: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> "LatentCache":
    """A cache of every image's latents in float16, and of its mirror image's where the set may be flipped; or of crops.

    Works as `encode_tokens`. Raises ValueError also if a latent is not finite in float16. Where the tokenizer has
    statistics (`latent_mean`, `latent_scale`), the manifest says by which its latents were normalized.
    """

    check_float32(tokenizer)

    @torch.no_grad()
    def encode(view: Images) -> Tensor:
        return as_half(tokenizer.encode(view.to(tokenizer.device)))

    row_bytes = views_of(images, crops) * encode(images.images(torch.tensor([0]))).nbytes + LABEL
    if announce is not None:
        announce(len(images) * row_bytes)
    manifest = {"tokenizer": begun_with(folder, tokenizer), "images": images.describe(), **about_views(images, crops)}
    manifest["classes"] = list(images.classes)
    for name in ("latent_mean", "latent_scale"):  # per channel
        if isinstance(told := getattr(tokenizer, name, None), Tensor):
            manifest[name] = told.tolist()
    write_shards(
        Path(folder),
        "latents",
        manifest,
        len(images),
        partial(encode_views, "latents", encode, images, batch_size=batch_size, crops=crops),
        shard_size=shard_size,
        row_bytes=row_bytes,
        progress=progress,
    )
    return LatentCache(folder, tokenizer)


class LatentCache:
    """What `encode_latents` left in a folder, 2 bytes a number, read where it lies.

    `labels` are (count,), `fingerprint` is that of the tokenizer, `latent_shape` is (n, d).
    """

    def __init__(self, folder: str | Path, tokenizer: TokenizerLike):
        """Raises ValueError if the folder is incomplete, or holds another tokenizer's latents."""
        self._views = CachedViews(folder, "latents", tokenizer)
        self.labels, manifest = self._views.labels, self._views.manifest
        self.fingerprint: str = manifest["tokenizer"]
        self.earlier_fingerprints = self._views.known  # under which it may be known too
        self.images: dict[str, object] = manifest["images"]  # what the set of images said of itself
        self.classes: tuple[str, ...] | None = self._views.classes  # their names; None: a cache of an earlier version

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def latent_shape(self) -> tuple[int, int]:
        _, n, d = self._views.shape
        return n, d

    @property
    def views(self) -> int:
        """How many ways each image is held."""
        return self._views.shape[0]

    def latents(self, indices: Indices) -> Latents:
        """The latents of images as they are, never mirrored, in float32. Raises ValueError for a cache of crops."""
        return self._views.plain(indices).float()

    def batch(self, indices: Indices, generator: Generator) -> tuple[Latents, Labels]:
        """Latents and labels of images, each in a view drawn at random."""
        return self.at(indices, torch.randint(self.views, indices.shape, generator=generator))

    def at(self, indices: Indices, views: Indices) -> tuple[Latents, Labels]:
        """Latents and labels of images, each in the view given."""
        return self._views.at(indices, views).float(), self.labels[indices]


def as_half(latents: Latents) -> Latents:
    """Latents in float16, on the CPU. Raises ValueError where that loses one to infinity, or where one is NaN."""
    half = latents.to("cpu", torch.float16)
    if not half.isfinite().all():
        raise ValueError(
            f"a latent is not finite in float16 (the largest is {latents.abs().max():.3g}); scale the tokenizer's "
            "latents to a standard deviation near 1, or look for broken images"
        )
    return half
