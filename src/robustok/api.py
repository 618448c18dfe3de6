"""What `import robustok` offers: load, sample and post-train in one call each (scores: `evaluation.evaluate`)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from robustok.data.images import ImageSet, hold_out
from robustok.data.pairs import make_pairs
from robustok.data.tokens import encode_tokens
from robustok.evaluation.evaluate import decoded
from robustok.evaluation.features import FeatureSpace, extractor
from robustok.evaluation.reference import Reference
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.presets import demo
from robustok.runtime.seeding import derive
from robustok.shapes import Pixels
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import HeldOut, PostTraining, post_train_decoder


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that a run or `save_pretrained` left in a folder. Raises ValueError for anything else."""
    return Tokenizer.from_pretrained(folder)


def load_generator(folder: str | Path) -> AutoregressiveModel:
    """The generator that a run or `save_pretrained` left in a folder. Raises ValueError for anything else."""
    return AutoregressiveModel.from_pretrained(folder)


def sample(
    generator: TokenGenerator, tokenizer: Tokenizer, labels: Iterable[int], *, seed: int = 0, **sampling: Any
) -> Pixels:
    """One image per label, on the CPU; image i depends on (seed, i) alone.

    `sampling` are fields of `Sampling`: temperature, top_k, top_p, guidance, schedule, power.
    """
    tokens = sample_tokens(generator, torch.tensor(list(labels)), Sampling(**sampling), seed=seed)
    return torch.cat(list(decoded(tokenizer, tokens)))


def post_train(
    tokenizer: Tokenizer,
    generator: TokenGenerator,
    images: ImageSet,
    folder: str | Path,
    *,
    sigma: float = 0.7,
    sampling: Sampling | None = None,
    config: PostTraining | None = None,
    pairs: int = 20_000,
    held_out: int = 2_000,
    features: FeatureSpace = "lite0",
) -> Tokenizer:
    """The tokenizer with its decoder tuned for the generator, or with the original one if none was better.

    `pairs` of the images are paired with tokens of which the generator drew all but a share `sigma`; `held_out` of
    them are never trained on and decide which decoder is kept. Everything goes to `folder`; called again after it
    was stopped, it goes on. By default it samples and trains as the demo does.
    """
    folder = Path(folder)
    sampling, config = sampling or demo().sampling, config or demo().post
    seed, device = config.loop.seed, tokenizer.device
    train, held = hold_out(images, held_out)
    cache = encode_tokens(tokenizer, train, folder / "tokens")
    count = min(pairs, len(train))
    touched = make_pairs(generator, cache, folder / "pairs", sigma=sigma, sampling=sampling, count=count, seed=seed)
    fresh = sample_tokens(generator, held.labels, sampling, seed=derive(seed, "held-out samples"))
    extract = extractor(features, device)
    check = HeldOut(tokenizer, fresh, Reference.of(held, extract).stats, extract)
    return post_train_decoder(config, tokenizer, touched, train, folder, held_out=check, device=device).tokenizer
