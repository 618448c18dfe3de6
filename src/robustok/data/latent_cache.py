"""The tokens or latents of a set of images, encoded once and read back: what a generator is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from robustok.data.images import ImageSet, Indices, five_crops
from robustok.data.shards import MANIFEST, Shards, write_shards
from robustok.generators.fit import fingerprints
from robustok.layers import check_float32, evaluating
from robustok.runtime.checkpoint import read_json
from robustok.runtime.places import home
from robustok.shapes import Images, Labels
from robustok.tokenizer.protocol import TokenizerLike, codebook_of, kind_of

Crops: TypeAlias = Literal[1, 5]  # of an image that are encoded: the image as it is, or its corners and middle
ZOOM = 1.1  # side of what five crops are taken from, over theirs (LlamaGen, `extract_codes_c2i.py`)
LABEL = 8  # bytes
SHARD = {"tokens": 16_384, "latents": 4096}  # images


def encode_images(
    tokenizer: TokenizerLike,
    images: ImageSet,
    folder: str | Path,
    *,
    crops: Crops = 1,
    batch_size: int = 256,
    shard_size: int | None = None,
    announce: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> "LatentCache":
    """A cache of every image's tokens, or of its latents in float16 where there is no codebook.

    And of its mirror image's where the set may be flipped; or of five `crops` each. Goes on where an earlier try
    stopped, and shares the work with other processes, see `shards`. `announce` is told beforehand how many bytes the
    whole cache takes, `progress` how many images are done. Where the tokenizer has statistics (`latent_mean`,
    `latent_scale`), the manifest says by which its latents were normalized. Raises ValueError if the folder holds what
    another tokenizer made or of other images, if the disk has no room, or if a latent is not finite in float16.
    """
    check_float32(tokenizer)
    folder = home(folder)
    kind, codebook, views = kind_of(tokenizer), codebook_of(tokenizer), views_of(images, crops)
    device = tokenizer.device if codebook is None else codebook.device
    codes = None if codebook is None else len(codebook)

    @torch.no_grad()
    def encode(view: Images) -> Tensor:
        with evaluating(tokenizer):
            latents = tokenizer.encode(view.to(device))
            return as_stored(latents if codebook is None else tokenizer.quantize(latents).tokens, codes)

    manifest = {"tokenizer": _begun_with(folder, tokenizer), "images": images.describe(), "views": views}
    manifest |= {"classes": list(images.classes)} | ({"crops": crops, "zoom": ZOOM} if crops > 1 else {})
    if codes is None:
        size = encode(images.images(torch.tensor([0]))).nbytes
        for name in ("latent_mean", "latent_scale"):  # per channel
            if isinstance(told := getattr(tokenizer, name, None), Tensor):
                manifest[name] = told.tolist()
    else:
        size = tokenizer.tokens_per_image * token_type(codes).itemsize
        manifest["codebook_size"] = codes
    if announce is not None:
        announce(len(images) * (views * size + LABEL))
    write_shards(
        folder,
        kind,
        manifest,
        len(images),
        partial(_encode_views, kind, encode, images, batch_size=batch_size, crops=crops),
        shard_size=shard_size or SHARD[kind],
        row_bytes=views * size + LABEL,
        progress=progress,
    )
    return LatentCache(folder, tokenizer)


class LatentCache:
    """What `encode_images` left in a folder, 2 bytes a token or number, read where it lies.

    `labels` are (count,), `fingerprint` is that of the tokenizer. Of tokens there are `tokens_per_image` of
    `codebook_size` codes; latents have a `latent_shape` (n, d), which is None for tokens, as `codebook_size` is for
    latents.
    """

    def __init__(self, folder: str | Path, tokenizer: TokenizerLike):
        """Raises ValueError if the folder is incomplete, or holds what another tokenizer made."""
        self.folder, self.kind = home(folder), kind_of(tokenizer)
        self._shards = Shards(self.folder, self.kind)
        manifest = self._manifest = self._shards.manifest
        self.earlier_fingerprints = fingerprints(tokenizer)  # under which it may be known too
        self.fingerprint: str = manifest["tokenizer"]
        if self.fingerprint not in self.earlier_fingerprints:
            raise ValueError(
                f"{folder} holds {self.kind} of tokenizer {self.fingerprint}, not of {self.earlier_fingerprints[0]}; "
                "encode the images again into another folder"
            )
        self.labels = self._shards.column("labels")
        self.images: dict[str, object] = manifest["images"]  # what the set of images said of itself
        names = manifest.get("classes")
        self.classes = None if names is None else tuple(names)  # their names; None: a cache of an earlier version
        shape = self._shards.shape(self.kind)
        self.views, self.tokens_per_image = shape[:2]  # how many ways each image is held, and n
        self.codebook_size: int | None = manifest["codebook_size"] if self.kind == "tokens" else None
        self.latent_shape: tuple[int, int] | None = None if self.kind == "tokens" else (shape[1], shape[2])

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, indices: Indices) -> Tensor:
        """Tokens (b n), or latents (b n d) in float32, of images as they are, never mirrored.

        Raises ValueError for a cache of crops, where none is.
        """
        if self._manifest.get("crops", 1) > 1:
            raise ValueError(
                f"{self.folder} holds {self.kind} of {self._manifest['crops']} crops of each image, none of which is "
                "the image as it is scored and decoded; encode the images again with crops 1, into another folder"
            )
        return self.at(indices, torch.zeros_like(indices))[0]

    def batch(self, indices: Indices, generator: Generator) -> tuple[Tensor, Labels]:
        """Tokens or latents and labels of images, each in a view drawn at random."""
        return self.at(indices, torch.randint(self.views, indices.shape, generator=generator))

    def at(self, indices: Indices, views: Indices) -> tuple[Tensor, Labels]:
        """Tokens or latents and labels of images, each in the view given."""
        return as_read(self._shards.take(self.kind, indices, views)), self.labels[indices]


def as_stored(made: Tensor, codes: int | None) -> Tensor:
    """Tokens of a codebook of `codes` as small as may be, or latents in float16 (None), on the CPU.

    Raises ValueError where that loses a latent to infinity, or where one is NaN.
    """
    if codes is not None:
        return made.to("cpu", token_type(codes))
    half = made.to("cpu", torch.float16)
    if not half.isfinite().all():
        raise ValueError(
            f"a latent is not finite in float16 (the largest is {made.abs().max():.3g}); scale the tokenizer's "
            "latents to a standard deviation near 1, or look for broken images"
        )
    return half


def as_read(stored: Tensor) -> Tensor:
    """Tokens as int64, latents in float32."""
    return stored.float() if stored.is_floating_point() else stored.long()


def token_type(codebook_size: int) -> torch.dtype:
    """The smallest type that holds a token and that torch can index."""
    return torch.uint16 if codebook_size <= 2**16 else torch.int32


def views_of(images: ImageSet, crops: Crops = 1) -> int:
    """How many ways each image is encoded: each crop as it is, and mirrored where the set may be flipped."""
    if crops not in (1, 5):
        raise ValueError(f"crops is {crops}; choose 1, the image as it is, or 5, its corners and middle")
    return crops * (2 if images.flip else 1)


@torch.no_grad()
def _encode_views(
    name: str, encode: Callable[[Images], Tensor], images: ImageSet, rows: range, *, batch_size: int, crops: Crops
) -> dict[str, Tensor]:
    """What `encode` makes of every view of some images, (b, views, ...) by the `name`, and their labels."""
    indices = torch.arange(rows.start, rows.stop)
    batches = []
    for part in indices.split(batch_size):
        seen = images.images(part).unsqueeze(1) if crops == 1 else five_crops(images, part, ZOOM)
        if images.flip:
            seen = torch.stack([seen, seen.flip(-1)], dim=2).flatten(1, 2)
        views = [encode(view) for view in seen.unbind(1)]
        with torch.autocast("cpu", enabled=False):  # which does not join half precision
            batches.append(torch.stack(views, dim=1))
    with torch.autocast("cpu", enabled=False):
        return {name: torch.cat(batches), "labels": images.labels[indices]}


def _begun_with(folder: Path, tokenizer: Any) -> str:
    """The tokenizer's fingerprint for a manifest: the one by which the folder knows it already, else its own."""
    path, known = folder / MANIFEST, fingerprints(tokenizer)
    held = read_json(path) if path.is_file() else None
    told = held.get("tokenizer") if isinstance(held, dict) else None
    return told if told in known else known[0]
