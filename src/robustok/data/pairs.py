"""Tokens that a generator touched, beside the real image they began as: what post-training is done on.

Each token of an image's own map is kept with probability sigma; the generator draws the others in order, given all
that is there already (Qiu et al. 2025, arXiv 2509.12474, sec. 4.3).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from robustok.data.images import Indices
from robustok.data.shards import read_shards, write_shards
from robustok.data.tokens import TokenCache, token_type
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens, uniforms
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Labels


def make_pairs(
    generator: TokenGenerator | None,
    cache: TokenCache,
    folder: str | Path,
    *,
    sigma: float,
    sampling: Sampling,
    count: int,
    seed: int,
    batch_size: int = 256,
    shard_size: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> "Pairs":
    """`count` pairs from as many images of the cache, drawn without replacement, none mirrored.

    A pair depends on the seed and its number alone; of two sigmas, the larger keeps what the smaller keeps, and more.
    sigma = 1 gives the images' own tokens and needs no generator. Goes on where an earlier try stopped. `progress` is
    told how many pairs are there. Raises ValueError if the folder holds pairs made in another way.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma is {sigma}; it is the share of tokens to keep, choose one between 0 and 1")
    if not 1 <= count <= len(cache):
        raise ValueError(f"{count} pairs were asked for, but there are {len(cache)} images; choose 1 to {len(cache)}")
    if sigma == 1:
        generator = None  # nothing is left to draw
    else:
        _check_fit(generator, cache)
    images = torch.randperm(len(cache), generator=stream(seed, "pairs, images"))[:count]

    def sample(rows: range) -> dict[str, Tensor]:
        chosen = images[rows.start : rows.stop]
        tokens, labels = cache.tokens(chosen), cache.labels[chosen]
        if generator is not None:
            tokens = sample_tokens(
                generator,
                labels,
                sampling,
                seed=derive(seed, "pairs, tokens"),
                first=rows.start,
                keep=uniforms(derive(seed, "pairs, keep"), rows, cache.tokens_per_image) < sigma,
                tokens=tokens,
                batch_size=batch_size,
                progress=None if progress is None else lambda done: progress(rows.start + done),
            )
        return {"tokens": tokens.to(token_type(cache.codebook_size)), "images": chosen, "labels": labels}

    manifest = {
        "generator": None if generator is None else generator.fingerprint(),
        "tokenizer": cache.fingerprint,
        "image_set": cache.images,
        "sigma": sigma,
        "sampling": None if generator is None else to_plain(sampling),
        "seed": seed,
    }
    write_shards(Path(folder), "pairs", manifest, count, sample, shard_size=shard_size, progress=progress)
    return Pairs(folder)


def _check_fit(generator: TokenGenerator | None, cache: TokenCache) -> None:
    if generator is None:
        raise ValueError("sigma below 1 needs a generator to draw the tokens that are not kept; give one")
    made, cached = ((part.codebook_size, part.tokens_per_image) for part in (generator, cache))
    if made != cached:
        raise ValueError(
            f"the generator makes {made[1]} tokens of {made[0]} codes, the cache holds {cached[1]} of {cached[0]}; "
            "give the generator that was trained on this cache"
        )


class Pair(NamedTuple):
    """A batch of pairs: real images by their index in the set, and what the generator made of them."""

    touched: Tensor  # tokens (b n)
    images: Indices
    labels: Labels


class Pairs:
    """What `make_pairs` left in a folder; `sigma` is the share of real tokens, `fingerprint` the tokenizer's."""

    def __init__(self, folder: str | Path):
        """Raises ValueError if the folder is incomplete."""
        manifest, tensors = read_shards(Path(folder), "pairs")
        self.sigma: float = manifest["sigma"]
        self.fingerprint: str = manifest["tokenizer"]
        self._tokens, self._images, self._labels = tensors["tokens"], tensors["images"], tensors["labels"]

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Indices) -> Pair:
        """The pairs of these numbers, 0 to len - 1."""
        return Pair(self._tokens[indices].long(), self._images[indices], self._labels[indices])
