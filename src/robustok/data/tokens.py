"""The tokens of a set of images, encoded once and read back: what a generator is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from robustok.data.images import ImageSet, Indices
from robustok.data.shards import read_shards, write_shards
from robustok.shapes import Codebook, Images, Labels, Latents, Tokens
from robustok.tokenizer.quantizer import Quantized


@runtime_checkable
class Encoder(Protocol):
    """The part of a tokenizer that makes tokens; its fingerprint changes when they may."""

    @property
    def codebook(self) -> Codebook: ...
    @property
    def tokens_per_image(self) -> int: ...
    def encode(self, images: Images) -> Latents: ...
    def quantize(self, latents: Latents) -> Quantized: ...
    def fingerprint(self) -> str: ...


def encode_tokens(
    tokenizer: Encoder,
    images: ImageSet,
    folder: str | Path,
    *,
    batch_size: int = 256,
    shard_size: int = 16_384,
    announce: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> "TokenCache":
    """A cache of every image's tokens, and of its mirror image's where the set may be flipped.

    Goes on where an earlier try stopped. `announce` is told beforehand how many bytes the whole cache takes, `progress`
    how many images are done. Raises ValueError if the folder holds tokens of another tokenizer or of other images.
    """
    size, views = len(tokenizer.codebook), views_of(images)
    if announce is not None:
        announce(len(images) * (views * tokenizer.tokens_per_image * token_type(size).itemsize + 8))

    def encode(view: Images) -> Tensor:
        view = view.to(tokenizer.codebook.device)
        return tokenizer.quantize(tokenizer.encode(view)).tokens.to("cpu", token_type(size))

    manifest = {
        "tokenizer": tokenizer.fingerprint(),
        "codebook_size": size,
        "images": images.describe(),
        "views": views,
    }
    make = partial(encode_views, "tokens", encode, images, batch_size=batch_size)
    write_shards(Path(folder), "tokens", manifest, len(images), make, shard_size=shard_size, progress=progress)
    return TokenCache(folder, tokenizer)


def views_of(images: ImageSet) -> int:
    """How many ways each image is encoded: as it is, and mirrored where the set may be flipped."""
    return 2 if images.flip else 1


@torch.no_grad()
def encode_views(
    name: str, encode: Callable[[Images], Tensor], images: ImageSet, rows: range, *, batch_size: int
) -> dict[str, Tensor]:
    """What `encode` makes of every view of some images, (b, views, ...) by the `name`, and their labels."""
    indices = torch.arange(rows.start, rows.stop)
    batches = []
    for part in indices.split(batch_size):
        batch = images.images(part)
        seen = [batch, batch.flip(3)][: views_of(images)]
        batches.append(torch.stack([encode(view) for view in seen], dim=1))
    return {name: torch.cat(batches), "labels": images.labels[indices]}


class TokenCache:
    """What `encode_tokens` left in a folder, in memory, 2 bytes a token.

    `labels` are (count,), `fingerprint` is that of the tokenizer, `codebook_size` its number of codes.
    """

    def __init__(self, folder: str | Path, tokenizer: Encoder):
        """Raises ValueError if the folder is incomplete, or holds another tokenizer's tokens."""
        manifest, tensors = read_shards(Path(folder), "tokens")
        if manifest["tokenizer"] != tokenizer.fingerprint():
            raise ValueError(
                f"{folder} holds tokens of tokenizer {manifest['tokenizer']}, not of {tokenizer.fingerprint()}; "
                "encode the images again into another folder"
            )
        self.fingerprint: str = manifest["tokenizer"]
        self.codebook_size: int = manifest["codebook_size"]
        self.images: dict[str, object] = manifest["images"]  # what the set of images said of itself
        self.labels = tensors["labels"]
        self._tokens = tensors["tokens"]  # (count, views, n)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens_per_image(self) -> int:
        return self._tokens.shape[2]

    def tokens(self, indices: Indices) -> Tokens:
        """The tokens of images as they are, never mirrored."""
        return self._tokens[indices, 0].long()

    def batch(self, indices: Indices, generator: Generator) -> tuple[Tokens, Labels]:
        """Tokens and labels of images, each mirrored or not at random, where the set may be flipped."""
        return self.at(indices, torch.randint(self.views, indices.shape, generator=generator))

    @property
    def views(self) -> int:
        """How many ways each image is held."""
        return self._tokens.shape[1]

    def at(self, indices: Indices, views: Indices) -> tuple[Tokens, Labels]:
        """Tokens and labels of images, each in the view given."""
        return self._tokens[indices, views].long(), self.labels[indices]


def token_type(codebook_size: int) -> torch.dtype:
    """The smallest type that holds a token and that torch can index."""
    return torch.uint16 if codebook_size <= 2**16 else torch.int32
