"""The tokens of a set of images, encoded once and read back: what a generator is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from robustok.data.caches import LABEL, CachedViews, Crops, about_views, begun_with, encode_views, views_of
from robustok.data.images import ImageSet, Indices
from robustok.data.shards import write_shards
from robustok.layers import check_float32
from robustok.shapes import Images, Labels, Tokens
from robustok.tokenizer.protocol import TokenizerLike, codebook_of


def encode_tokens(
    tokenizer: TokenizerLike,
    images: ImageSet,
    folder: str | Path,
    *,
    crops: Crops = 1,
    batch_size: int = 256,
    shard_size: int = 16_384,
    announce: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> "TokenCache":
    """A cache of every image's tokens, and of its mirror image's where the set may be flipped; or of five `crops` each.

    Goes on where an earlier try stopped, and shares the work with other processes, see `shards`. `announce` is told
    beforehand how many bytes the whole cache takes, `progress` how many images are done. Raises ValueError if the
    folder holds tokens of another tokenizer or of other images, or if the disk has no room.
    """
    check_float32(tokenizer)
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "only these have tokens"
    size = len(codebook)
    row_bytes = views_of(images, crops) * tokenizer.tokens_per_image * token_type(size).itemsize + LABEL
    if announce is not None:
        announce(len(images) * row_bytes)

    def encode(view: Images) -> Tensor:
        view = view.to(codebook.device)
        return tokenizer.quantize(tokenizer.encode(view)).tokens.to("cpu", token_type(size))

    manifest = {
        "tokenizer": begun_with(folder, tokenizer),
        "codebook_size": size,
        "images": images.describe(),
        "classes": list(images.classes),
        **about_views(images, crops),
    }
    write_shards(
        Path(folder),
        "tokens",
        manifest,
        len(images),
        partial(encode_views, "tokens", encode, images, batch_size=batch_size, crops=crops),
        shard_size=shard_size,
        row_bytes=row_bytes,
        progress=progress,
    )
    return TokenCache(folder, tokenizer)


class TokenCache:
    """What `encode_tokens` left in a folder, 2 bytes a token, read where it lies.

    `labels` are (count,), `fingerprint` is that of the tokenizer, `codebook_size` its number of codes.
    """

    def __init__(self, folder: str | Path, tokenizer: TokenizerLike):
        """Raises ValueError if the folder is incomplete, or holds another tokenizer's tokens."""
        self._views = CachedViews(folder, "tokens", tokenizer)
        self.labels, manifest = self._views.labels, self._views.manifest
        self.fingerprint: str = manifest["tokenizer"]
        self.earlier_fingerprints = self._views.known  # under which it may be known too
        self.codebook_size: int = manifest["codebook_size"]
        self.images: dict[str, object] = manifest["images"]  # what the set of images said of itself
        self.classes: tuple[str, ...] | None = self._views.classes  # their names; None: a cache of an earlier version

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens_per_image(self) -> int:
        return self._views.shape[1]

    @property
    def views(self) -> int:
        """How many ways each image is held."""
        return self._views.shape[0]

    def tokens(self, indices: Indices) -> Tokens:
        """The tokens of images as they are, never mirrored. Raises ValueError for a cache of crops."""
        return self._views.plain(indices).long()

    def batch(self, indices: Indices, generator: Generator) -> tuple[Tokens, Labels]:
        """Tokens and labels of images, each in a view drawn at random."""
        return self.at(indices, torch.randint(self.views, indices.shape, generator=generator))

    def at(self, indices: Indices, views: Indices) -> tuple[Tokens, Labels]:
        """Tokens and labels of images, each in the view given."""
        return self._views.at(indices, views).long(), self.labels[indices]


def token_type(codebook_size: int) -> torch.dtype:
    """The smallest type that holds a token and that torch can index."""
    return torch.uint16 if codebook_size <= 2**16 else torch.int32
