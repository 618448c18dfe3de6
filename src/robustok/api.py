"""What `import robustok` offers: load, sample, post-train, publish in one call each (scores: `evaluation.evaluate`)."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustok import adapters
from robustok.adapters import push
from robustok.adapters.diffusers import adapted
from robustok.adapters.published import default_sampling
from robustok.data.images import ImageSet
from robustok.evaluation.evaluate import decoded
from robustok.evaluation.features import FeatureSpace
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.generators.trained_on import check_trained_on
from robustok.presets import demo
from robustok.shapes import Pixels
from robustok.training import tuning
from robustok.training.post_training import PostTraining


def load_tokenizer(name: str | Path, **fields: Any) -> Any:
    """The tokenizer of a name, in evaluation mode, whoever made it.

    `name` is a folder that a run or `save_pretrained` left, a file or folder of another family's weights
    (`robustok.adapters`), a folder of diffusers, or `owner/repository[:file][@revision]` of the Hugging Face hub;
    `fields` are what a file does not tell, such as `image_size`. Raises ValueError for anything else.
    """
    return adapters.load_tokenizer(name, **fields)


def load_generator(name: str | Path, *, tokenizer: Any = None, **fields: Any) -> Any:
    """The generator of a name, as `load_tokenizer` takes it; `fields` are such as `heads`.

    `tokenizer` is the one that it was trained on: VAR's files need it, LlamaGen's take the number of tokens from it.
    """
    return adapters.load_generator(name, tokenizer=tokenizer, **fields)


def push_to_hub(
    model: Any,
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
    data_licence: str | None = None,
) -> str:
    """Upload a model, or its folder, to `owner/name` of the Hugging Face hub with a model card; returns its address.

    `load_tokenizer` and `load_generator` then take that name. `licence` is that of the weights, `data_licence` that of
    the images, where they are not known. Raises ValueError when there is no model, or the hub refuses.
    """
    return push.push_to_hub(model, repository, private=private, licence=licence, data_licence=data_licence)


def sample(generator: Any, tokenizer: Any, labels: Iterable[int], *, seed: int = 0, **sampling: Any) -> Pixels:
    """One image per label, on the CPU; image i depends on (seed, i) alone.

    `sampling` are fields of `Sampling` (temperature, top_k, top_p, guidance, schedule, power ...) or, for latents, of
    `FlowSampling` (steps, method, guidance, guided_to, shift ...); unless given they are as the generator's authors
    published, where that is known. Both models may be of diffusers: `sample(pipe, pipe.vae, [1, 2])`. Raises ValueError
    for a generator that was trained on another tokenizer.
    """
    tokenizer, generator = adapted(tokenizer, generator)
    check_trained_on(generator, tokenizer)
    drawn = tuning.sample(generator, torch.tensor(list(labels)), replace(default_sampling(generator), **sampling), seed)
    return torch.cat(list(decoded(tokenizer, drawn)))


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
    0.9 or so for a decoder that was trained without perturbation. `held_out` of the images, evenly spaced, are
    left out of it and decide which decoder is kept. Everything goes to `folder`; called again after it was stopped, it
    goes on. By default it trains as the demo does, which is not as the paper (see `robustok.presets.demo`), and samples
    robustok's own generators so too, others as published.

    Both may be of diffusers: `post_train(pipe.vae, pipe, ...).to_diffusers()` is the autoencoder to put in its place.
    """
    tokenizer, generator = adapted(tokenizer, generator)
    if sampling is None:
        sampling = demo().sampling if type(generator) is AutoregressiveModel else default_sampling(generator)
    how = tuning.DecoderTuning(
        post=config or demo().post, sampling=sampling, sigma=sigma, pairs=pairs, held_out=held_out
    )
    return tuning.tune_decoder(how, tokenizer, generator, images, folder, features=features).touched.tokenizer
