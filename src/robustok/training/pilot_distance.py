"""Pilot FD: how well an autoencoder will generate, told before there is a generator.

A small generator without classes learns some images' latents for a few hundred steps (that of `RehearsedLatents`).
Latents of other images are noised a little and it follows them back; decoded, they are compared with these images by
the Frechet distance. What a generator takes away of noise does no harm then, and what it leaves behind does, as in a
sample: pFID's plain noise cannot tell these apart. Nobody has published such a score. It is near generation-aware rFID
(arXiv 2609.24088), which needs the finished generator. In the study of docs/studies/latent_prediction it went with gFID
in all three feature spaces; for tokens nothing did.
"""

from typing import Any

import torch

from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.features.image_source import BLOCK, ImageSource, Progress, check_range, images_at, pixels_of
from robustok.evaluation.features.registry import FeatureSpaces, extractors
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted
from robustok.evaluation.scores.score import Distance, Score
from robustok.layers import precision
from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import from_main, rank, world_size
from robustok.runtime.seeding import derive, stream
from robustok.tokenizer.protocol import TokenizerLike, codebook_of
from robustok.training.rehearsal import RehearsedLatents, latent_pilot_of

LEVEL = 0.25  # of noise, from which latents are followed back
PILOT = RehearsedLatents()
IN_WORDS = (
    "images whose latents were noised and followed back by a pilot generator; of 17 small autoencoders of clothes it "
    "foretold gFID with a quarter to a half of the error of guessing, so compare autoencoders of one kind by it"
)


def own_seed(seed: int) -> int:
    """The seed of the pilot: not that of the one by which `RehearsedLatents` may have trained the decoder."""
    return derive(seed, "pilot distance")


def pilot_distance(
    tokenizer: TokenizerLike,
    images: ImageSource,
    train: ImageSource,
    features: FeatureSpaces = "lite0",
    *,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> list[Score]:
    """`pilot_fd` in every feature space: of images, after a pilot that learned the latents of `train` had theirs.

    At most `PILOT.train_images` of `train` are learned. `progress` is told how many images are done, once the pilot is
    trained. Several processes train the same pilot and share the images. Raises ValueError for a tokenizer with a
    codebook, for images of which there are fewer than two, and where both sets are the same.
    """
    if codebook_of(tokenizer) is not None:
        raise ValueError(
            "what a pilot foretells is of latents, and this tokenizer makes codes, for which no such score was found; "
            "leave it out, and compare decoders of the same codes by pFID"
        )
    check_range(images)
    check_range(train)
    if images.describe() == train.describe():
        raise ValueError("the pilot would be asked of the very images that it learned; give it others")
    spaces = extractors(features, tokenizer.device)
    pilot = latent_pilot_of(PILOT, tokenizer, train, seed=own_seed(seed))
    pairs = [(FeatureStream(space.describe()), FeatureStream(space.describe())) for space in spaces]
    own = list(enumerate(torch.arange(len(images)).split(BLOCK)))[rank() :: world_size()]
    done, total = 0, sum(len(rows) for _, rows in own)
    for number, rows in own:
        shown = images_at(images, rows)
        pixels = pixels_of(shown)
        latents = encoded(tokenizer, shown, batch_size).to(tokenizer.device).float()
        noise = torch.randn(latents.shape, generator=stream(seed, "pilot distance", number)).to(latents)
        followed = pilot.follow(latents, latents.new_full((len(rows),), LEVEL), noise, PILOT.back)
        made = torch.cat(list(decoded(tokenizer, followed, batch_size)))
        for space, (real, other) in zip(spaces, pairs, strict=True):
            real.add(extracted(space, pixels), rows)
            other.add(extracted(space, made), rows)
        done += len(rows)
        if progress is not None:
            progress(done, total)
    gathered = [(real.gather(), other.gather()) for real, other in pairs]
    about: dict[str, Any] = {
        "reference": images.describe(),
        "pilot": to_plain(PILOT),
        "pilot_learned": train.describe(),
        "level": LEVEL,
        "precision": precision(tokenizer),
        "interval": "95 %, over images, each drawn with its reconstruction",
        "evidence": "docs/studies/latent_prediction",
        "in_words": IN_WORDS,
    }

    def scores() -> list[Score]:
        return [
            Distance.between(real, other, paired=True).score("pilot_fd", {**real.space, **about}, (seed,))
            for real, other in gathered
        ]

    return from_main(scores)
