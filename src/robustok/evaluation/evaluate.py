"""Scores of sets of images and of generators, each with the protocol that it was computed by.

Several processes (`robustok.runtime.distributed.processes`) share the images; all of them get the scores, which are
those of one process, see `robustok.evaluation.tokenizer_scores`, where the scores of tokenizers are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustok.evaluation.decoding import Autoencoder, precision
from robustok.evaluation.decoding import DiscreteTokenizer as DiscreteTokenizer
from robustok.evaluation.decoding import decoded as decoded
from robustok.evaluation.decoding import evaluating as evaluating
from robustok.evaluation.feature_stream import KEPT, FeatureStream, extracted, feature_stream
from robustok.evaluation.features import Extractor, FeatureSpace, FeatureSpaces, extractors
from robustok.evaluation.generation import frechet_score
from robustok.evaluation.generation import score_features as score_features
from robustok.evaluation.reference import ImageSource, Progress, Reference, stream_of
from robustok.evaluation.score import Score as Score
from robustok.evaluation.tokenizer_scores import score_tokenizer as score_tokenizer
from robustok.generators.flow import FlowSampling, LatentGenerator, sample_latents
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.generators.trained_on import check_trained_on
from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import from_main, rank, world_size
from robustok.shapes import Labels


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
    about = how_generated(generator, tokenizer, sampling)
    return [
        score
        for (_, real), stream in zip(spaces, streams, strict=True)
        for score in _scored(stream, real, seeds=(seed,), protocol=about)
    ]


def how_generated(
    generator: TokenGenerator | LatentGenerator, tokenizer: Autoencoder, sampling: Sampling | FlowSampling
) -> dict[str, Any]:
    """What the protocol of a generator's scores says of how its images are made here."""
    return {
        "sampling": to_plain(sampling),
        "precision": {"sampled": precision(generator), "decoded": precision(tokenizer)},
    }


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


def with_references(
    features: FeatureSpaces, reference: Reference | Sequence[Reference], device: torch.device | str = "cpu"
) -> list[tuple[Extractor, Reference]]:
    """Each extractor and its reference. Raises ValueError where they are not as many, or of other spaces."""
    spaces = extractors(features, device)
    references = [reference] if isinstance(reference, Reference) else list(reference)
    if len(spaces) != len(references):
        raise ValueError(f"there are {len(spaces)} feature spaces and {len(references)} references; give one for each")
    for extract, real in zip(spaces, references, strict=True):
        real.check_space(extract.describe())
    return list(zip(spaces, references, strict=True))
