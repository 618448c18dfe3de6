"""The demo's scores: of the tokenizer; of generated images in the space that was trained in and in two others, and of
what they copy.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustok.backbones.vgg import VGGHED
from robustok.demo.compared import Compared
from robustok.demo.config import Demo, DemoImages
from robustok.evaluation.decoding import decoded, encoded, precision
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.memorization import auth_percent
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted
from robustok.evaluation.scores.generator_scores import score_streams
from robustok.evaluation.scores.intervals import fraction_interval
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.runtime.configs import to_plain
from robustok.tokenizer.protocol import kind_of
from robustok.training.shared_sampling import sampled_in

SPACES = ("lite0", "lite2", "vgg-hed")  # lite0 first: of several scores of one name, the first is the headline
COMPARED = 1_000  # generated and validation images, at most, that are compared with all training images

Space: TypeAlias = tuple[Extractor, Reference]


def demo_spaces(images: DemoImages, out: Path, missing_from: Sequence[Score] = ()) -> list[Space]:
    """The spaces of `SPACES`, each with its reference, but for those in which there are scores already."""
    there = {score.protocol.get("features") for score in missing_from}
    extracts = [extractor(name) for name in SPACES if name not in there]
    return [(extract, reference_of(images, out, extract)) for extract in extracts]


def reference_of(images: DemoImages, out: Path, extract: Extractor) -> Reference:
    """The statistics of the validation images in a space, computed once, or anew where their file was damaged."""
    path = out / ("reference.safetensors" if extract.name == SPACES[0] else f"reference_{extract.name}.safetensors")
    if path.exists():
        with suppress(ValueError):
            return Reference.load(path)
    Reference.of(images.reference, extract).save(path)
    return Reference.load(path)


def trained_in(config: Demo) -> set[str]:
    """The spaces whose networks a demo trains with: in teacher, discriminator, perceptual and Frechet term."""
    found = {"lite0"}
    for objective in (config.main.objective, config.post.objective):
        found |= {*objective.frechet_spaces, *(["vgg-hed"] if isinstance(objective.network, VGGHED) else [])}
    return found


def unseen(config: Demo) -> list[str]:
    """The spaces of `SPACES` in which nothing is trained; there may be none."""
    return [name for name in SPACES if name not in trained_in(config)]


def reconstruction_scores(config: Demo, tokenizer: Any, images: DemoImages, extract: Extractor) -> list[Score]:
    """rFID, pFID and its cells, and the other scores of a demo's tokenizer."""
    pfid_images, seed = config.pfid_images, config.seed
    return score_tokenizer(tokenizer, images.scored, extract, pfid_images=pfid_images, seed=seed)


def how_generated(config: Demo, samples: Path, tokenizer: Any) -> dict[str, Any]:
    """The protocol of how generated images were made."""
    return {
        "sampling": to_plain(config.post.sampling),
        "labels": "balanced",
        "precision": {"sampled": sampled_in(samples), "decoded": precision(tokenizer)},
    }


def generation_scores(compared: Compared, spaces: Sequence[Space]) -> list[Score]:
    """gFID, precision and recall of the same tokens or latents under every decoder, and what each changed, paired.

    In every space, of pixels that are decoded once; their protocols say how they were generated.
    Scores in a space that nothing was trained in say so: `held_out`.
    """
    config, extracts = compared.config, [extract for extract, _ in spaces]
    decoders = compared.decoders.items()
    streams = {name: _streams(decoded(tokenizer, compared.drawn), extracts) for name, tokenizer in decoders}
    scores: list[Score] = []
    for i, (extract, reference) in enumerate(spaces):
        variants = {name: own[i] for name, own in streams.items()}
        held_out = {} if extract.name in trained_in(config) else {"held_out": True}
        scores += score_streams(variants, reference, seeds=(config.seed,), protocol={**compared.how, **held_out})
    return scores


def _streams(pixels: Iterable[Tensor], extracts: Sequence[Extractor]) -> list[FeatureStream]:
    """The features of the same images in each space."""
    streams, count = [FeatureStream(extract.describe()) for extract in extracts], 0
    for batch in pixels:
        for extract, stream in zip(extracts, streams, strict=True):
            stream.add(extracted(extract, batch), torch.arange(count, count + len(batch)))
        count += len(batch)
    return streams


def copy_scores(compared: Compared) -> list[Score]:
    """AuthPct of generated images, and of validation images, which are no copies: does the generator copy?

    By distances of latents, or of the codes of tokens: those of all training images are there, whatever the decoder.
    Training images are taken as they are; mirrored, a symmetric one would be its own nearest other.
    """
    images, count = compared.images, min(COMPARED, len(compared.drawn), len(compared.images.scored))
    real = encoded(compared.tokenizer, images.scored.images(torch.arange(count)))
    space = f"{'latents' if kind_of(compared.tokenizer) == 'latents' else 'codes'} of the tokenizer"
    scores = []
    for metric, latents, made in (("authpct", compared.drawn[:count], compared.how), ("authpct_held_out", real, {})):
        value = auth_percent(generated=compared.codes(latents), train=compared.known)
        low, high = fraction_interval(value / 100, count)
        about = {**made, "features": space, "train": images.train.describe()}
        scores.append(Score(metric=metric, value=value, interval=(100 * low, 100 * high), images=count, protocol=about))
    return scores
