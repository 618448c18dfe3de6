"""Scores of generators, and of several decoders of the same samples, each with the protocol it was computed by."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from robustok.evaluation.decoding import MANY, decoded, precision, seems_from_0
from robustok.evaluation.features.image_source import Progress
from robustok.evaluation.features.registry import FeatureSpaces
from robustok.evaluation.scores.difference import paired_difference
from robustok.evaluation.scores.feature_stream import KEPT, FeatureStream, extracted
from robustok.evaluation.scores.image_scores import score_features, with_references
from robustok.evaluation.scores.metric_names import VARIANTS
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.generators.fit import check_fit, fingerprints
from robustok.generators.generate import AnySampling, sample
from robustok.generators.protocol import GeneratorLike
from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import from_main, rank, world_size
from robustok.shapes import Labels
from robustok.tokenizer.protocol import TokenizerLike


def score_generator(
    generator: GeneratorLike,
    tokenizer: TokenizerLike | Mapping[str, TokenizerLike],
    reference: Reference | Sequence[Reference],
    labels: Labels,
    features: FeatureSpaces = "lite0",
    *,
    sampling: AnySampling,
    seed: int = 0,
    batch_size: int = 125,
    keep: int = KEPT,
    compile: str | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores by `score_streams` of one sampled image per label, the i-th drawn from (seed, i).

    Several tokenizers by name decode the same samples, for which they must have the same tokens or latents; whether
    they do is known of those that tell it by a `fingerprint`. With several feature spaces there is one reference for
    each, in the same order; images are sampled once, compiled by the backend `compile` of `torch.compile` if one is
    named, as the protocol says then. Several processes share the work. Raises ValueError for a generator that was
    trained on another tokenizer, for tokenizers of other tokens, and for `sampling` of another kind of generator.
    """
    decoders = tokenizer if isinstance(tokenizer, Mapping) else {"": tokenizer}
    prints = {known[0] for decoder in decoders.values() if (known := fingerprints(decoder))}
    if len(prints) > 1:
        raise ValueError(
            f"the tokenizers {', '.join(decoders)} have other tokens, so they cannot decode the same ones; compare a "
            "tokenizer with one post-trained from it, or score each with its own generator"
        )
    for decoder in decoders.values():
        check_fit(generator, decoder, sampling)
    first = next(iter(decoders.values()))
    spaces = with_references(features, reference, first.device)
    streams = [{name: FeatureStream(extract.describe(), keep) for name in decoders} for extract, _ in spaces]
    extremes: dict[str, list[int]] = {name: [255, 0] for name in decoders}  # of the pixels that each made
    batches = list(torch.arange(len(labels)).split(batch_size))[rank() :: world_size()] if len(labels) else []
    done = 0
    for at in batches:
        how: dict[str, Any] = {"first": int(at[0]), "batch_size": len(at), "compile": compile}
        drawn = sample(generator, labels[at], sampling, seed=seed, **how)
        for name, decoder in decoders.items():
            pixels = torch.cat(list(decoded(decoder, drawn, batch_size)))
            low, high = extremes[name]
            extremes[name] = [min(low, int(pixels.min())), max(high, int(pixels.max()))]
            for (extract, _), own in zip(spaces, streams, strict=True):
                own[name].add(extracted(extract, pixels), at)
        done += len(at)
        if progress is not None:
            progress(done, sum(map(len, batches)))
    whole = [{name: stream.gather() for name, stream in own.items()} for own in streams]
    about = {
        "sampling": to_plain(sampling),
        "precision": {"sampled": precision(generator), "decoded": precision(first)},
    }
    about |= {"sampled_by": compile} if compile else {}

    def scores() -> list[Score]:
        if done >= MANY:
            _tell_of_range(extremes)
        pairs = zip(spaces, whole, strict=True)
        return [s for (_, real), own in pairs for s in score_streams(own, real, seeds=(seed,), protocol=about)]

    return from_main(scores)


def _tell_of_range(extremes: Mapping[str, Sequence[int]]) -> None:
    """Warn of decoders to which 0 seems to be black, by the lowest and highest pixel that each made."""
    for name, (low, high) in extremes.items():
        if seems_from_0(low, high):
            warnings.warn(
                f"generated images go from {low} to {high} of 255{name and f' by the decoder {name!r}'}, as if 0 were "
                "black to the decoder; decoders make [-1, 1] here, so if it is, scale what it decodes: 2 * images - 1",
                stacklevel=4,
            )


def score_streams(
    streams: Mapping[str, FeatureStream],
    reference: Reference,
    *,
    seeds: tuple[int, ...] = (),
    protocol: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Scores by `score_features` of each decoder's images of the same tokens, and how much each pair differs.

    `streams` are named after the decoders, with names of `metric_names.VARIANTS`: {"before": ..., "after": ...} makes
    gfid_before, gfid_after and one gfid_difference, whose protocol says from which to which. A single one may have no
    name, "".
    """
    scores = []
    for name, stream in streams.items():
        scores += score_features(stream, reference, suffix=name and f"_{name}", seeds=seeds, protocol=protocol)
    for one, other in combinations([variant for variant in VARIANTS if variant in streams], 2):
        change = paired_difference(streams[one], streams[other], reference)
        how = {"from": one, "to": other, "tokens": "the same", "in_words": change.in_words()}
        told = {**reference.space, **(protocol or {})}
        how |= {name: told[name] for name in ("features", "precision") if name in told}
        scores.append(
            Score(
                metric="gfid_difference",
                value=change.value,
                interval=change.interval,
                images=streams[one].count,
                seeds=seeds,
                protocol=how,
            )
        )
    return scores
