"""One pass over the images, all scores, each with the protocol that it was computed by."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustok.evaluation.codebook_use import code_counts, dead_codes, perplexity, used_share
from robustok.evaluation.feature_stream import FeatureStream, feature_stream
from robustok.evaluation.features import Extractor, FeatureSpace, extractor
from robustok.evaluation.intervals import mean_interval
from robustok.evaluation.kernel_distance import mmd
from robustok.evaluation.pfid import BLOCK, KEPT, grid, perturbed
from robustok.evaluation.pixelwise import WINDOW, psnr, ssim
from robustok.evaluation.precision_recall import density_coverage, precision_recall
from robustok.evaluation.reference import ImageSource, Progress, Reference
from robustok.evaluation.score import Distance
from robustok.evaluation.score import Score as Score
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.runtime.configs import to_plain
from robustok.shapes import Codebook, Images, Labels, Latents, Pixels, Tokens, to_pixels
from robustok.tokenizer.perturbation import neighbours

PSNR_CEILING = 100.0  # dB; stands for the infinite PSNR of an image that is reproduced exactly


@runtime_checkable
class DiscreteTokenizer(Protocol):
    """What is scored: anything with a codebook that turns images into tokens and back."""

    @property
    def codebook(self) -> Codebook: ...
    def encode(self, images: Images) -> Latents: ...
    def quantize(self, latents: Latents) -> Any: ...  # with .tokens (b, n)
    def lookup(self, tokens: Tokens) -> Latents: ...
    def decode(self, codes: Latents) -> Images: ...


class _Seen:
    """What one pass over the images leaves behind."""

    def __init__(self, extract: Extractor, codes: int):
        space = extract.describe()
        self.extract = extract
        self.real, self.reconstructed = FeatureStream(space), FeatureStream(space)
        self.real_of_pfid = FeatureStream(space, KEPT)  # of the images that are perturbed, too
        self.perturbed = [(cell, FeatureStream(space, KEPT)) for cell in grid(codes)]
        self.code_counts = torch.zeros(codes, dtype=torch.int64)
        self.psnr: list[Tensor] = []
        self.ssim: list[Tensor] = []

    def add(self, pixels: Pixels, output: Pixels, tokens: Tokens, in_pfid: bool) -> None:
        """Images, their reconstructions and their tokens."""
        features = self.extract(pixels)
        for stream in [self.real, self.real_of_pfid] if in_pfid else [self.real]:
            stream.add(features)
        self.reconstructed.add(self.extract(output))
        self.code_counts += code_counts(tokens.cpu(), len(self.code_counts))
        self.psnr.append(psnr(output, pixels))
        self.ssim.append(ssim(output, pixels))

    @property
    def count(self) -> int:
        """Images looked at: real, reconstructed and perturbed."""
        return self.real.count + self.reconstructed.count + sum(stream.count for _, stream in self.perturbed)


@torch.no_grad()
def score_tokenizer(
    tokenizer: DiscreteTokenizer,
    images: ImageSource,
    features: FeatureSpace = "lite0",
    *,
    pfid_images: int | None = None,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> list[Score]:
    """rFID, pFID and its 15 cells, PSNR, SSIM, codebook use, perplexity and dead codes, from one pass.

    pFID is of `pfid_images` images evenly spaced over the set (None: all), against these images. `progress`
    is told how many images have been looked at, of all real, reconstructed and perturbed ones.
    """
    for_pfid = len(images) if pfid_images is None else min(pfid_images, len(images))
    if for_pfid < 2:
        raise ValueError(f"pFID cannot be had from {for_pfid} images; take at least two, better some thousands")
    codes = len(tokenizer.codebook)
    seen = _Seen(extractor(features, tokenizer.codebook.device), codes)
    cells = [cell for cell, _ in seen.perturbed]
    near = neighbours(tokenizer.codebook, max(cell.delta for cell in cells))
    total = 2 * len(images) + len(cells) * for_pfid
    tell = progress or _say_nothing
    with evaluating(tokenizer):
        for block, (indices, in_pfid) in enumerate(_blocks(len(images), for_pfid)):
            batch = images.images(indices)
            tokens = torch.cat([_tokenize(tokenizer, part) for part in batch.split(batch_size)])
            output = torch.cat(list(decoded(tokenizer, tokens, batch_size)))
            seen.add(to_pixels(batch), output, tokens, in_pfid)
            if in_pfid:
                noisy = perturbed(tokens, near, cells, seed=seed, block=block)
                for (_, stream), (_, replaced) in zip(seen.perturbed, noisy, strict=True):
                    for pixels in decoded(tokenizer, replaced, batch_size):
                        stream.add(seen.extract(pixels))
                    tell(seen.count, total)
            tell(seen.count, total)
    about = {"reference": images.describe()}
    return [
        *_reconstruction_scores(seen, about, seed),
        *_pixel_scores(seen, about),
        *_codebook_scores(seen, about),
    ]


def score_images(
    images: ImageSource,
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    metric: str = "fd_floor",
    progress: Progress | None = None,
) -> Score:
    """Frechet distance of one set of images to the reference; for other real images, it is the floor."""
    other = Reference.of(images, features, progress=progress)
    reference.check_space(other.space)
    protocol = {**other.space, "reference": reference.images, "generated": other.images}
    return _generated_score(metric, reference, other, protocol)


def score_generator(
    generator: TokenGenerator,
    tokenizer: DiscreteTokenizer,
    reference: Reference,
    labels: Labels,
    features: FeatureSpace = "lite0",
    *,
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> list[Score]:
    """What `score_pixels` says of one sampled image per label, the i-th drawn from (seed, i)."""

    def pixels() -> Iterator[Pixels]:
        for first in range(0, len(labels), batch_size):
            part = labels[first : first + batch_size]
            tokens = sample_tokens(generator, part, sampling, seed=seed, first=first, batch_size=batch_size)
            yield from decoded(tokenizer, tokens, batch_size)
            if progress is not None:
                progress(first + len(part), len(labels))

    space = extractor(features, tokenizer.codebook.device)
    return score_pixels(pixels(), reference, space, seeds=(seed,), protocol={"sampling": to_plain(sampling)})


def score_pixels(
    generated: Iterable[Tensor],
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    suffix: str = "",
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
) -> list[Score]:
    """What `score_features` says of batches of uint8 (b 3 h w)."""
    stream = feature_stream(generated, features)
    return score_features(stream, reference, suffix=suffix, seeds=seeds, protocol=protocol)


def score_features(
    generated: FeatureStream,
    reference: Reference,
    *,
    suffix: str = "",
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
) -> list[Score]:
    """gFID of all images; of samples precision and recall, density and coverage, and the kernel distance.

    `suffix` ends their names ("_before" makes "gfid_before"); `protocol` adds how the images were generated.
    """
    reference.check_space(generated.space)
    about = {**generated.space, "reference": reference.images, **(protocol or {})}
    one, other = generated.sample, reference.sample
    sampled = {**about, "generated_sample": len(one), "reference_sample": len(other)}
    closed = precision_recall(generated=one, real=other, k=3)
    opened = density_coverage(generated=one, real=other, k=5)
    kernel = mmd(generated=one, real=other)
    of_samples: list[tuple[str, float, dict[str, Any]]] = [
        *((name, value, {"k": 3, "balls": "closed"}) for name, value in closed._asdict().items()),
        *((name, value, {"k": 5, "balls": "open"}) for name, value in opened._asdict().items()),
        ("kid", kernel, {"kernel": "cubic", "estimate": "unbiased, of the whole samples"}),
    ]
    return [
        _generated_score(f"gfid{suffix}", reference, generated, about, seeds=seeds),
        *(
            Score(
                metric=f"{name}{suffix}",
                value=value,
                images=generated.stats.count,
                seeds=seeds,
                protocol={**sampled, **how},
            )
            for name, value, how in of_samples
        ),
    ]


@torch.no_grad()
def decoded(tokenizer: DiscreteTokenizer, tokens: Tokens, batch_size: int = 125) -> Iterator[Pixels]:
    """The images that tokens stand for, batch by batch, on the CPU."""
    for part in tokens.split(batch_size):
        with evaluating(tokenizer):
            output = tokenizer.decode(tokenizer.lookup(part.to(tokenizer.codebook.device)))
        yield to_pixels(output).cpu()


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode for the while: no dropout, no codebook that learns from what is scored."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _say_nothing(done: int, total: int) -> None: ...


def _tokenize(tokenizer: DiscreteTokenizer, images: Images) -> Tokens:
    return tokenizer.quantize(tokenizer.encode(images.to(tokenizer.codebook.device))).tokens


def _blocks(count: int, for_pfid: int) -> Iterator[tuple[Tensor, bool]]:
    """Indices of all images, block by block, and whether the block is perturbed.

    The `for_pfid` images that are perturbed come first and are evenly spaced over the whole, since folders
    are sorted by class.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.arange(for_pfid) * count // for_pfid] = True
    for in_pfid in (True, False):
        for block in torch.arange(count)[chosen == in_pfid].split(BLOCK):
            if len(block):
                yield block, in_pfid


def _generated_score(
    metric: str,
    reference: Reference,
    generated: Reference | FeatureStream,
    protocol: Mapping[str, Any],
    seeds: tuple[int, ...] = (),
) -> Score:
    protocol = {**protocol, "interval": "95 %, over generated images, the reference held fixed"}
    return Distance.between(reference, generated, paired=False).score(metric, protocol, seeds)


def _reconstruction_scores(seen: _Seen, protocol: Mapping[str, Any], seed: int) -> Iterator[Score]:
    """rFID; pFID, the mean of its cells; and the cells."""
    protocol = {
        **seen.extract.describe(),
        **protocol,
        "interval": "95 %, over images, each drawn with its reconstruction",
    }
    yield Distance.between(seen.real, seen.reconstructed, paired=True).score("rfid", protocol)
    cells = [(cell, Distance.between(seen.real_of_pfid, stream, paired=True)) for cell, stream in seen.perturbed]
    mean = Distance(
        math.fsum(distance.value for _, distance in cells) / len(cells),
        torch.stack([distance.moved for _, distance in cells]).mean(dim=0),
        seen.real_of_pfid.count,
    )
    protocol = {**protocol, "images": "evenly spaced over the reference", "beta": 1.0}
    yield mean.score("pfid", {**protocol, "cells": len(cells)}, (seed,))
    for cell, distance in cells:
        yield distance.score("pfid_cell", {**protocol, **cell._asdict()}, (seed,))


def _pixel_scores(seen: _Seen, protocol: Mapping[str, Any]) -> Iterator[Score]:
    """PSNR and SSIM, means over images."""
    per_image: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "psnr": (torch.cat(seen.psnr).clamp_max(PSNR_CEILING), {"ceiling": PSNR_CEILING}),
        "ssim": (torch.cat(seen.ssim), {"window": WINDOW}),
    }
    for metric, (values, how) in per_image.items():
        yield Score(
            metric=metric,
            value=(mean := float(values.mean())),
            interval=mean_interval(mean, values),
            images=len(values),
            protocol={**protocol, **how, "interval": "95 %, over images"},
        )


def _codebook_scores(seen: _Seen, protocol: Mapping[str, Any]) -> Iterator[Score]:
    counts = seen.code_counts
    values = {
        "codebook_use": used_share(counts),
        "codebook_perplexity": perplexity(counts),
        "dead_codes": dead_codes(counts),
    }
    for metric, value in values.items():
        yield Score(
            metric=metric, value=value, images=seen.real.count, protocol={**protocol, "codebook_size": len(counts)}
        )
