"""What token and latent caches share: the views of an image that are encoded, and how they are read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from robustok.data.images import ImageSet, Indices, five_crops
from robustok.data.shards import MANIFEST, Shards
from robustok.generators.fit import fingerprints
from robustok.runtime.checkpoint import read_json
from robustok.shapes import Images

Crops: TypeAlias = Literal[1, 5]  # of an image that are encoded: the image as it is, or its corners and middle
ZOOM = 1.1  # side of what five crops are taken from, over theirs (LlamaGen, `extract_codes_c2i.py`)
LABEL = 8  # bytes


def views_of(images: ImageSet, crops: Crops = 1) -> int:
    """How many ways each image is encoded: each crop as it is, and mirrored where the set may be flipped."""
    if crops not in (1, 5):
        raise ValueError(f"crops is {crops}; choose 1, the image as it is, or 5, its corners and middle")
    return crops * (2 if images.flip else 1)


def about_views(images: ImageSet, crops: Crops) -> dict[str, Any]:
    """What a manifest says of the views."""
    return {"views": views_of(images, crops)} | ({"crops": crops, "zoom": ZOOM} if crops > 1 else {})


@torch.no_grad()
def encode_views(
    name: str,
    encode: Callable[[Images], Tensor],
    images: ImageSet,
    rows: range,
    *,
    batch_size: int,
    crops: Crops = 1,
) -> dict[str, Tensor]:
    """What `encode` makes of every view of some images, (b, views, ...) by the `name`, and their labels."""
    indices = torch.arange(rows.start, rows.stop)
    batches = []
    for part in indices.split(batch_size):
        seen = images.images(part).unsqueeze(1) if crops == 1 else five_crops(images, part, ZOOM)
        if images.flip:
            seen = torch.stack([seen, seen.flip(-1)], dim=2).flatten(1, 2)
        batches.append(torch.stack([encode(view) for view in seen.unbind(1)], dim=1))
    return {name: torch.cat(batches), "labels": images.labels[indices]}


def begun_with(folder: str | Path, tokenizer: Any) -> str:
    """The tokenizer's fingerprint for a manifest: the one by which the folder knows it already, else its own."""
    path, known = Path(folder) / MANIFEST, fingerprints(tokenizer)
    told = read_json(path).get("tokenizer") if path.is_file() else None
    return told if told in known else known[0]


class CachedViews:
    """The views of a cache, read where they lie.

    `labels` are (count,), `known` the fingerprints by which its tokenizer is known.
    """

    def __init__(self, folder: str | Path, kind: str, tokenizer: Any):
        """Raises ValueError if the folder is incomplete, or was made with another tokenizer."""
        self.folder, self.kind, self._shards = Path(folder), kind, Shards(Path(folder), kind)
        self.manifest = self._shards.manifest
        self.known = fingerprints(tokenizer)
        if self.manifest["tokenizer"] not in self.known:
            raise ValueError(
                f"{folder} holds {kind} of tokenizer {self.manifest['tokenizer']}, not of {self.known[0]}; "
                "encode the images again into another folder"
            )
        self.labels = self._shards.column("labels")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the images' classes; None where an earlier version wrote the cache."""
        names = self.manifest.get("classes")
        return None if names is None else tuple(names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Views, then the shape of one."""
        return self._shards.shape(self.kind)

    def at(self, indices: Indices, views: Indices) -> Tensor:
        """One view (b, ...) of each of some images."""
        return self._shards.take(self.kind, indices, views)

    def plain(self, indices: Indices) -> Tensor:
        """Images as they are. Raises ValueError for a cache of crops, where none is."""
        if self.manifest.get("crops", 1) > 1:
            raise ValueError(
                f"{self.folder} holds {self.kind} of {self.manifest['crops']} crops of each image, none of which is "
                "the image as it is scored and decoded; encode the images again with crops 1, into another folder"
            )
        return self.at(indices, torch.zeros_like(indices))
