"""One pass over the images, all scores, each with the protocol that it was computed by.

Several processes (`robustok.runtime.distributed.processes`) share the images; all of them get the scores, which are
those of one process. Statistics are merged exactly, random draws and samples go by an image's position, and a network
sees batches of one size. So nothing depends on how the work was split, and of `batch_size` no more than the rounding
of the tokenizer's own float32.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from robustok.evaluation.decoding import Autoencoder, encoded
from robustok.evaluation.decoding import DiscreteTokenizer as DiscreteTokenizer
from robustok.evaluation.decoding import decoded as decoded
from robustok.evaluation.decoding import evaluating as evaluating
from robustok.evaluation.feature_stream import KEPT, FeatureStream, extracted, feature_stream
from robustok.evaluation.features import Extractor, FeatureSpace, extractor
from robustok.evaluation.generation import frechet_score
from robustok.evaluation.generation import score_features as score_features
from robustok.evaluation.pfid import BLOCK, grid, perturbed
from robustok.evaluation.reconstruction import CodesSeen, FeaturesSeen, Perceptual, PixelsSeen
from robustok.evaluation.reference import ImageSource, Progress, Reference, check_range, pixels_of, stream_of
from robustok.evaluation.score import Score as Score
from robustok.generators.flow import FlowSampling, LatentGenerator, sample_latents
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.generators.trained_on import check_trained_on
from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import from_main, rank, world_size
from robustok.shapes import Labels
from robustok.tokenizer.perturbation import neighbours

FeatureSpaces: TypeAlias = FeatureSpace | Sequence[FeatureSpace]


@torch.no_grad()
def score_tokenizer(
    tokenizer: Autoencoder,
    images: ImageSource,
    features: FeatureSpaces = "lite0",
    *,
    pfid_images: int | None = None,
    lpips: Perceptual | None = None,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> list[Score]:
    """rFID, pFID and its 15 cells, PSNR, SSIM, codebook use, perplexity and dead codes, from one pass.

    The distances are in every feature space given. A tokenizer without a codebook has a rFID, PSNR and SSIM. LPIPS
    comes with a function for it, of images and reconstructions in [-1, 1]. pFID is of `pfid_images` images evenly
    spaced over the set (None: all), against these images. `progress` is told how many images have been looked at, of
    all real, reconstructed and perturbed ones.
    """
    check_range(images)
    discrete = tokenizer if isinstance(tokenizer, DiscreteTokenizer) else None
    for_pfid = _images_of_pfid(len(images), pfid_images, discrete is not None)
    cells = grid(len(discrete.codebook)) if discrete else ()
    near = neighbours(discrete.codebook, max(cell.delta for cell in cells)) if discrete else None
    spaces = [FeaturesSeen(extract, cells) for extract in _extractors(features, tokenizer.device)]
    of_pixels = PixelsSeen(lpips)
    of_codes = CodesSeen(len(discrete.codebook)) if discrete else None
    blocks = list(_blocks(len(images), for_pfid))[rank() :: world_size()]
    total = sum(len(block.indices) * (2 + len(cells) * (block.places is not None)) for block in blocks)
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    for block in blocks:
        batch = images.images(block.indices)
        pixels = pixels_of(batch)
        tokens = encoded(tokenizer, batch, batch_size)
        output = torch.cat(list(decoded(tokenizer, tokens, batch_size)))
        of_pixels.add(pixels, output, block.indices)
        if of_codes:
            of_codes.add(tokens)
        for space in spaces:
            space.add(pixels, output, block.indices, block.places)
        tell(2 * len(batch))
        if block.places is None or near is None:
            continue
        for number, (_, noisy) in enumerate(perturbed(tokens, near, cells, seed=seed, block=block.number)):
            output = torch.cat(list(decoded(tokenizer, noisy, batch_size)))
            for space in spaces:
                space.add_perturbed(number, output, block.places)
            tell(len(batch))

    for space in spaces:
        space.together()
    of_pixels.together()
    if of_codes:
        of_codes.together()
    about = {"reference": images.describe()}
    return from_main(
        lambda: [
            *(score for space in spaces for score in space.scores(about, seed)),
            *of_pixels.scores(about),
            *(of_codes.scores(about) if of_codes else ()),
        ]
    )


def score_images(
    images: ImageSource,
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    metric: str = "fd_floor",
    progress: Progress | None = None,
) -> Score:
    """Frechet distance of one set of images to the reference; for other real images, it is the floor."""
    stream = stream_of(images, features, progress=progress)
    reference.check_space(stream.space)
    protocol = {**stream.space, "reference": reference.images, "generated": images.describe()}
    return from_main(lambda: frechet_score(metric, stream, reference, protocol))


def score_image_set(
    images: ImageSource,
    reference: Reference | Sequence[Reference],
    features: FeatureSpaces = "lite0",
    *,
    metric: str = "fid",
    keep: int = KEPT,
    progress: Progress | None = None,
) -> list[Score]:
    """What `score_features` says of a set of images, of which `keep` at most are the sample.

    With several feature spaces there is one reference for each, in the same order.
    """
    about = {"generated": images.describe()}
    scores: list[Score] = []
    for extract, real in with_references(features, reference):
        stream = stream_of(images, extract, keep=keep, progress=progress)
        scores += _scored(stream, real, metric=metric, protocol=about)
    return scores


def score_generator(
    generator: TokenGenerator | LatentGenerator,
    tokenizer: Autoencoder,
    reference: Reference | Sequence[Reference],
    labels: Labels,
    features: FeatureSpaces = "lite0",
    *,
    sampling: Sampling | FlowSampling,
    seed: int = 0,
    batch_size: int = 125,
    keep: int = KEPT,
    progress: Progress | None = None,
) -> list[Score]:
    """What `score_features` says of one sampled image per label, the i-th drawn from (seed, i).

    With several feature spaces there is one reference for each, in the same order; images are sampled once.
    """
    spaces = with_references(features, reference, tokenizer.device)
    (streams,) = generated_streams(
        generator,
        [tokenizer],
        labels,
        [extract for extract, _ in spaces],
        sampling=sampling,
        seed=seed,
        batch_size=batch_size,
        keep=keep,
        progress=progress,
    )
    about = {"sampling": to_plain(sampling)}
    return [
        score
        for (_, real), stream in zip(spaces, streams, strict=True)
        for score in _scored(stream, real, seeds=(seed,), protocol=about)
    ]


def generated_streams(
    generator: TokenGenerator | LatentGenerator,
    tokenizers: Sequence[Autoencoder],
    labels: Labels,
    extractors: Sequence[Extractor],
    *,
    sampling: Sampling | FlowSampling,
    seed: int = 0,
    batch_size: int = 125,
    keep: int = KEPT,
    progress: Progress | None = None,
) -> list[list[FeatureStream]]:
    """For each tokenizer, the features in each space of one sampled image per label, the i-th drawn from (seed, i).

    Images are sampled once, whatever the number of tokenizers and spaces. Several processes share the work; the main
    one has the result. Raises ValueError for a generator that was trained on another tokenizer.
    """
    for tokenizer in tokenizers:
        check_trained_on(generator, tokenizer)
    streams = [[FeatureStream(extract.describe(), keep) for extract in extractors] for _ in tokenizers]
    batches = list(torch.arange(len(labels)).split(batch_size))[rank() :: world_size()] if len(labels) else []
    done = 0
    for at in batches:
        drawn = _drawn(generator, labels[at], sampling, seed, int(at[0]))
        for tokenizer, own in zip(tokenizers, streams, strict=True):
            pixels = torch.cat(list(decoded(tokenizer, drawn, batch_size)))
            for extract, stream in zip(extractors, own, strict=True):
                stream.add(extracted(extract, pixels), at)
        done += len(at)
        if progress is not None:
            progress(done, sum(map(len, batches)))
    return [[stream.together() for stream in own] for own in streams]


def score_pixels(
    generated: Iterable[Tensor],
    reference: Reference,
    features: FeatureSpace = "lite0",
    *,
    metric: str = "gfid",
    suffix: str = "",
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
    keep: int = KEPT,
) -> list[Score]:
    """What `score_features` says of batches of uint8 (b 3 h w). Several processes each go through all batches."""
    stream = feature_stream(generated, features, keep=keep)
    return _scored(stream, reference, metric=metric, suffix=suffix, seeds=seeds, protocol=protocol)


def _scored(stream: FeatureStream, reference: Reference, **how: Any) -> list[Score]:
    return from_main(lambda: score_features(stream, reference, **how))


def _drawn(
    generator: TokenGenerator | LatentGenerator,
    labels: Labels,
    sampling: Sampling | FlowSampling,
    seed: int,
    first: int,
) -> Tensor:
    """Tokens or latents, by the kind of the generator. ValueError for settings of the other kind."""
    if isinstance(generator, LatentGenerator) and isinstance(sampling, FlowSampling):
        return sample_latents(generator, labels, sampling, seed=seed, first=first, batch_size=len(labels))
    if isinstance(generator, TokenGenerator) and isinstance(sampling, Sampling):
        return sample_tokens(generator, labels, sampling, seed=seed, first=first, batch_size=len(labels))
    kinds = "a generator of latents takes FlowSampling, one of tokens takes Sampling"
    raise ValueError(f"{type(generator).__name__} cannot be sampled by {type(sampling).__name__}; {kinds}")


def _extractors(features: FeatureSpaces, device: torch.device | str) -> list[Extractor]:
    """One or several. Raises ValueError for none."""
    several = features if isinstance(features, Sequence) and not isinstance(features, str) else [features]
    if not several:
        raise ValueError("there is no feature space to score in; name at least one")
    return [extractor(space, device) for space in several]


def with_references(
    features: FeatureSpaces, reference: Reference | Sequence[Reference], device: torch.device | str = "cpu"
) -> list[tuple[Extractor, Reference]]:
    """Each extractor and its reference. Raises ValueError where they are not as many, or of other spaces."""
    extractors = _extractors(features, device)
    references = [reference] if isinstance(reference, Reference) else list(reference)
    if len(extractors) != len(references):
        raise ValueError(
            f"there are {len(extractors)} feature spaces and {len(references)} references; give one for each"
        )
    for extract, real in zip(extractors, references, strict=True):
        real.check_space(extract.describe())
    return list(zip(extractors, references, strict=True))


class _Block(NamedTuple):
    """Images that are looked at together, whatever the batch size."""

    number: int  # among the blocks of its kind: the random numbers of pFID depend on it
    indices: Tensor  # of the images
    places: Tensor | None  # theirs among the images of pFID, if they are


def _blocks(count: int, for_pfid: int) -> Iterator[_Block]:
    """All images; first the `for_pfid` that are perturbed, evenly spaced over the whole, since folders are sorted."""
    chosen = torch.zeros(count, dtype=torch.bool)
    if for_pfid:
        chosen[torch.arange(for_pfid) * count // for_pfid] = True
    for in_pfid in (True, False):
        indices = torch.arange(count)[chosen == in_pfid]
        for number, places in enumerate(torch.arange(len(indices)).split(BLOCK) if len(indices) else ()):
            yield _Block(number, indices[places], places if in_pfid else None)


def _images_of_pfid(count: int, wanted: int | None, discrete: bool) -> int:
    """How many images are perturbed. Raises ValueError for fewer than two, or where nothing can be perturbed."""
    if not discrete:
        if wanted is not None:
            raise ValueError("pFID replaces codes and this tokenizer has no codebook; leave pfid_images out")
        return 0
    for_pfid = count if wanted is None else min(wanted, count)
    if for_pfid < 2:
        raise ValueError(f"pFID cannot be had from {for_pfid} images; take at least two, better some thousands")
    return for_pfid
