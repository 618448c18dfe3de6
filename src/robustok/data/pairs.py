"""Pairs for post-training: what a generator made of a real image's tokens or latents, beside that image.

Tokens: each of an image's own is kept with probability sigma; the generator draws the others in order, given all that
is there already. Latents: noised to the level 1 - sigma, and followed from there by the generator, which is SDEdit.
(Qiu et al. 2025, arXiv 2509.12474, sec. 4.3) Or, in one forward pass, the generator's guess at the data from there.
"""

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from robustok.data.images import ImageSet, Indices
from robustok.data.latent_cache import LatentCache, as_read, as_stored
from robustok.data.shards import Shards, write_shards
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.generate import AnySampling, sample
from robustok.generators.noise import uniforms
from robustok.generators.protocol import GeneratorLike
from robustok.layers import precision
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import derive, stream
from robustok.runtime.words import listed
from robustok.shapes import Labels

PairMode = Literal["sdedit", "one-pass"]
FEW, SMALL_GROUP, LARGE_GROUP = 4096, 64, 256  # the first pairs come in small groups, so that few pairs have many masks


def make_pairs(
    generator: GeneratorLike | None,
    cache: LatentCache,
    folder: str | Path,
    *,
    sigma: float,
    sampling: AnySampling,
    count: int,
    seed: int,
    mode: PairMode = "sdedit",
    batch_size: int = 256,
    shard_size: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> "Pairs":
    """`count` pairs from as many images of the cache, drawn without replacement, none mirrored.

    A pair depends on the seed and its number alone; of two sigmas, the larger keeps what the smaller keeps, and more.
    Pairs of a group (`mask_group`) keep the same positions, which are then read in one go between those that are drawn.
    sigma = 1 gives the images' own tokens or latents and needs no generator. `mode` says what becomes of noised
    latents: they are followed as `sampling` says ("sdedit"), or the generator guesses the data from them in one forward
    pass, which gives means, smoother than what is sampled ("one-pass"). Goes on where an earlier try stopped.
    The precision in which the generator computes here is told with them. `progress` is told how many pairs are there.
    Raises ValueError if the folder holds pairs made in another way, if generator, sampling and cache are not of the
    same kind and size, or the generator was trained on another tokenizer.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma is {sigma}; it is the share that stays real, choose one between 0 and 1")
    if not 1 <= count <= len(cache):
        raise ValueError(f"{count} pairs were asked for, but there are {len(cache)} images; choose 1 to {len(cache)}")
    if sigma == 1:
        generator = None  # nothing is left to draw
    elif generator is None:
        raise ValueError("sigma below 1 needs a generator to draw the tokens that are not kept; give one")
    else:
        check_fit(generator, cache, sampling)
        check_classes(generator, cache.labels, cache.classes)
    check_pair_mode(mode, sampling)
    how: dict[str, Any] = {"sampling": sampling, "sigma": sigma, "seed": seed, "mode": mode}
    images = torch.randperm(len(cache), generator=stream(seed, "pairs, images"))[:count]

    def make(rows: range) -> dict[str, Tensor]:
        chosen = images[rows.start : rows.stop]
        tell = None if progress is None else lambda done: progress(rows.start + done)
        new = generated(generator, cache, chosen, first=rows.start, batch_size=batch_size, progress=tell, **how)
        return {"generated": as_stored(new, cache.codebook_size), "images": chosen, "labels": cache.labels[chosen]}

    manifest = {
        "generator": None if generator is None else generator.fingerprint(),
        "tokenizer": cache.fingerprint,
        "image_set": cache.images,
        "sigma": sigma,
        "sampling": None if generator is None else to_plain(sampling),
        "seed": seed,
        "precision": None if generator is None else precision(generator),
    } | ({} if mode == "sdedit" or generator is None else {"pair_mode": mode})
    if generator is not None and sigma > 0 and sampling.makes == "tokens":
        manifest["masks"] = "one for each group of pairs"  # of earlier versions: one for each pair
    write_shards(Path(folder), "pairs", manifest, count, make, shard_size=shard_size, progress=progress)
    return Pairs(folder)


def mask_group(number: int) -> int:
    """The group that a pair belongs to by its number: its members keep the same positions, drawn anew for each group.

    A mask of one image is what it is if each has its own: every position is kept with probability sigma, by itself.
    """
    return number // SMALL_GROUP if number < FEW else (number - FEW) // LARGE_GROUP + FEW // SMALL_GROUP


def generated(
    generator: GeneratorLike | None,
    cache: LatentCache,
    chosen: Indices,
    *,
    sampling: AnySampling,
    sigma: float,
    seed: int,
    first: int,
    mode: PairMode,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> Tensor:
    """The tokens or latents of the chosen images, as the generator makes them anew in part: the pairs from `first` on.

    Each token is kept with probability sigma, those of a group at the same positions; latents are noised to the level
    1 - sigma. No generator: their own ones.
    """
    own = cache.plain(chosen)
    if generator is None:
        return own
    how: dict[str, Any] = {"seed": derive(seed, f"pairs, {sampling.makes}"), "batch_size": batch_size}
    labels = cache.labels[chosen]
    if sampling.makes == "latents":
        how |= {"level": 1 - sigma, "one_pass": mode == "one-pass"}
        return sample(generator, labels, sampling, first=first, start=own, progress=progress, **how)
    parts = []
    for group, members in groupby(range(first, first + len(chosen)), mask_group):
        numbers = list(members)
        part = slice(numbers[0] - first, numbers[-1] + 1 - first)
        keep = (uniforms(derive(seed, "pairs, keep"), [group], own.shape[1]) < sigma).expand(len(numbers), -1)
        tell = None if progress is None else lambda done, before=part.start: progress(before + done)
        how |= {"first": numbers[0], "keep": keep, "progress": tell}
        parts.append(sample(generator, labels[part], sampling, start=own[part], **how))
    return torch.cat(parts)


def check_pair_mode(mode: PairMode, sampling: AnySampling) -> None:
    """Raises ValueError for one-pass pairs of tokens, and for a mode that is not known."""
    if mode not in ("sdedit", "one-pass"):
        raise ValueError(f"pair_mode is {mode!r}; choose 'sdedit' or 'one-pass'")
    if mode == "one-pass" and sampling.makes == "tokens":
        raise ValueError("pair_mode is 'one-pass', which is for latents: tokens have no mean; leave it at 'sdedit'")


class Pair(NamedTuple):
    """A batch of pairs: real images by their index in the set, and what the generator made of them."""

    generated: Tensor  # tokens (b n), or latents (b n d)
    images: Indices
    labels: Labels


class Pairs:
    """What `make_pairs` left in folders, one for each sigma, the share that is real.

    `sigma` is that share, or a list of them where there are several folders; `fingerprint` the tokenizer's,
    `mode` says what the generator did with noised latents, `precision` in which it computed (None: it was not told, or
    nothing was sampled), `image_set` what the set of images said of itself.
    """

    def __init__(self, *folders: str | Path):
        """Raises ValueError if a folder is incomplete."""
        parts = [Shards(Path(folder), "pairs") for folder in folders]
        manifest, shares = parts[0].manifest, [part.manifest["sigma"] for part in parts]
        with torch.autocast("cpu", enabled=False):  # which does not join half precision
            tensors = {name: torch.cat([part.column(name) for part in parts]) for name in parts[0].names()}
        self.sigma: float | list[float] = shares[0] if len(shares) == 1 else shares
        self.fingerprint: str = manifest["tokenizer"]
        self.image_set: dict[str, Any] | None = manifest.get("image_set")
        self.mode: PairMode = manifest.get("pair_mode", manifest.get("touch", "sdedit"))  # of older folders: "touch"
        self.precision: str | None = manifest.get("precision")
        self._generated = tensors["generated" if "generated" in tensors else "touched"]
        self._images, self._labels = tensors["images"], tensors["labels"]

    def __len__(self) -> int:
        return len(self._images)

    def check_images(self, images: ImageSet) -> None:
        """Raises ValueError for other images than those of the pairs; the place where they lie may be another."""
        here = json.loads(json.dumps(images.describe()))
        if self.image_set is None or here == self.image_set:
            return
        if "hash" in here and here | {"name": None} == self.image_set | {"name": None}:
            return
        raise ValueError(
            f"the pairs were made of other images: {listed(self.image_set)}, not {listed(here)}; give those, "
            "or make pairs of these"
        )

    def batch(self, indices: Indices) -> Pair:
        """The pairs of these numbers, 0 to len - 1."""
        return Pair(as_read(self._generated[indices]), self._images[indices], self._labels[indices])
