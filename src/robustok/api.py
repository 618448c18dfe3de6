"""What `import robustok` offers: load, sample and post-train in one call each (scores: `evaluation.evaluate`)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from robustok.adapters.diffusers import adapted
from robustok.data.images import ImageSet
from robustok.evaluation.evaluate import decoded
from robustok.evaluation.features import FeatureSpace
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.presets import demo
from robustok.shapes import Pixels
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import PostTraining
from robustok.training.tuning import DecoderTuning, tune_decoder


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
    tokenizer: Any,
    generator: Any,
    images: ImageSet,
    folder: str | Path,
    *,
    sigma: float = 0.7,
    sampling: Sampling | FlowSampling | None = None,
    config: PostTraining | None = None,
    pairs: int = 20_000,
    held_out: int = 2_000,
    features: FeatureSpace = "lite0",
) -> Any:
    """The tokenizer with its decoder tuned for the generator, or with the original one if none was better.

    `pairs` of the images are paired with tokens or latents of which the generator made all but a share `sigma`; take
    0.9 or so for a decoder that was trained without perturbation. `held_out` of the images are never trained on and
    decide which decoder is kept. Everything goes to `folder`; called again after it was stopped, it goes on. By default
    it samples and trains as the demo does.

    Both may be of diffusers: `post_train(pipe.vae, pipe, ...).to_diffusers()` is the autoencoder to put in its place.
    """
    tokenizer, generator = adapted(tokenizer, generator)
    if sampling is None:
        sampling = demo().sampling if isinstance(generator, TokenGenerator) else FlowSampling()
    tuning = DecoderTuning(post=config or demo().post, sampling=sampling, sigma=sigma, pairs=pairs, held_out=held_out)
    return tune_decoder(tuning, tokenizer, generator, images, folder, features=features).touched.tokenizer
