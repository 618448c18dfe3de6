"""What `import robustok` offers: load, sample, score, post-train, publish in one call each.

Models may be in half precision: what is computed is computed in float32, of a copy. (Not a tokenizer of robustok's
beside the generator that was trained on it, which knows its tokenizer by the weights.) Raw models of diffusers are
taken too. Whatever cannot be meant raises ValueError in one line.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustok.adapters.diffusers import adapted
from robustok.adapters.published_generators import default_sampling
from robustok.data.images import ImageSet
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.image_source import ImageSource, check_set
from robustok.evaluation.features.registry import FeatureSpace, FeatureSpaces
from robustok.evaluation.scores import generator_scores, tokenizer_scores
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.generators.fit import check_fit
from robustok.generators.flow import FlowSampling
from robustok.generators.generate import AnySampling
from robustok.generators.protocol import lacking
from robustok.generators.sampling import Sampling
from robustok.layers import in_float32
from robustok.models import load_generator, load_tokenizer
from robustok.presets.defaults import post_training_for, with_networks_at_hand
from robustok.publishing.push import push_to_hub
from robustok.runtime.configs import from_plain, to_plain
from robustok.runtime.places import home
from robustok.runtime.whole_numbers import whole_number
from robustok.runtime.words import in_short
from robustok.shapes import Labels, Pixels
from robustok.training import post_training
from robustok.training.post_training import PostTraining
from robustok.training.shared_sampling import sample_together

__all__ = [
    "load_generator",
    "load_tokenizer",
    "post_train",
    "push_to_hub",
    "sample",
    "score_generator",
    "score_tokenizer",
]


def sample(
    generator: Any,
    tokenizer: Any,
    labels: Iterable[int],
    *,
    seed: int = 0,
    compile: str | None = None,
    **sampling: Any,
) -> Pixels:
    """One image per label, on the CPU; image i depends on (seed, i) alone, and any whole number is a seed.

    `sampling` are fields of `Sampling` (temperature, top_k, top_p, guidance, schedule, power ...), for masked ones also
    of `MaskedSampling` (steps, choice_temperature ...), or, for latents, of `FlowSampling` (steps, method, guidance,
    guidance_high, shift ...); unless given they are as the generator's authors published, where that is known. Both
    models may be of diffusers: `sample(pipe, pipe.vae, [1, 2])`. `compile` is a backend of `torch.compile`, such as
    inductor, for many images by a generator that draws token by token. Raises ValueError for a generator that
    was trained on another tokenizer, for labels that it does not know, and for one that cannot be compiled.
    """
    tokenizer, generator = _ready(tokenizer, generator)
    check_fit(generator, tokenizer)
    settings = _settings(default_sampling(generator), sampling)
    drawn = sample_together(generator, _labels(labels, generator.null_class), settings, seed, compile=compile)
    return torch.cat(list(decoded(tokenizer, drawn)))


def score_tokenizer(
    tokenizer: Any, images: ImageSource, features: FeatureSpaces = "lite0", **options: Any
) -> list[Score]:
    """rFID, pFID and the other scores of a tokenizer on images: `evaluation.scores.tokenizer_scores`.

    `options` are those of that function; the tokenizer may be a raw autoencoder of diffusers, which takes images of any
    size. Raises ValueError.
    """
    check_set(images)
    tokenizer, _ = _ready(tokenizer, image_size=getattr(images, "size", None))
    return tokenizer_scores.score_tokenizer(tokenizer, images, features, **_counts(options))


def score_generator(
    generator: Any,
    tokenizer: Any,
    reference: Reference | list[Reference],
    labels: Iterable[int],
    features: FeatureSpaces = "lite0",
    **options: Any,
) -> list[Score]:
    """gFID and the other scores of one sampled image per label: `evaluation.scores.generator_scores`.

    `options` are those of that function, `sampling` among them unless it is to be as the generator's authors have it;
    both models may be of diffusers. Raises ValueError.
    """
    tokenizer, generator = _ready(tokenizer, generator)
    how = {"sampling": default_sampling(generator)} | _counts(options)
    known = _labels(labels, generator.null_class)
    for one in reference if isinstance(reference, list | tuple) else [reference]:
        if not isinstance(one, Reference):
            raise ValueError(
                f"{in_short(one)} is no reference; make one of real images: Reference.of(images, extractor)"
            )
    return generator_scores.score_generator(generator, tokenizer, reference, known, features, **how)


def post_train(
    tokenizer: Any,
    generator: Any,
    images: ImageSet,
    folder: str | Path,
    *,
    config: PostTraining | None = None,
    sigma: float | tuple[float, float] | str | None = None,
    sampling: AnySampling | None = None,
    pairs: int | None = None,
    held_out: int | None = None,
    features: FeatureSpace | None = None,
) -> Any:
    """The tokenizer with its decoder tuned for the generator, or with the original one if none was better.

    `pairs` of the images, or as many as there are, are paired with tokens or latents of which the generator made all
    but a share `sigma`. Without a `config` it is "auto" unless given: held-out images choose by short tries, which
    add about a fifth to the time; two numbers give pairs of shares from the first to the second. `held_out` of the
    images, as many of every class as it has, are left out and decide which decoder is kept, in the space of `features`:
    lite0 at the images' own size, 64 to 224 pixels, unless given. Everything goes to `folder`; called again after it
    was stopped, it goes on.

    Without a `config` it is chosen by what is given (`robustok.presets.defaults`): robustok's own tokenizers of less
    than 128 pixels are tuned for some minutes of a CPU, all others as in the paper, for 10 epochs of up to 200,000
    pairs in batches of 1,024, which wants a GPU; where the two published networks of its losses cannot be had, a
    warning says so, and embedded ones take their place. The other settings go over it; without them generators of
    other families are sampled as published.

    Both may be of diffusers: `post_train(pipe.vae, pipe, ...).to_diffusers()` is the autoencoder to put in its place.
    """
    check_set(images)
    tokenizer, generator = _ready(tokenizer, generator)
    if not isinstance(sampling, Sampling | FlowSampling | None):
        raise ValueError(f"sampling is {sampling!r}; give a Sampling, a MaskedSampling or a FlowSampling")
    if not isinstance(config, PostTraining | None):
        raise ValueError(f"config is {config!r}; give a PostTraining, or nothing for the one that suits the models")
    given = {"sigma": sigma, "pairs": pairs, "held_out": held_out}
    settings = {name: _plain(value) for name, value in given.items() if value is not None}
    if sampling is not None:
        settings["sampling"] = to_plain(sampling)

    def over(preset: PostTraining) -> PostTraining:
        return from_plain(PostTraining, to_plain(preset) | settings)

    if config is None:
        config = with_networks_at_hand(post_training_for(tokenizer, generator, len(images), over=over))
    result = post_training.post_train(over(config), tokenizer, generator, images, _place(folder), features=features)
    return result.tuned.tokenizer


def _ready(tokenizer: Any, generator: Any = None, image_size: int | None = None) -> tuple[Any, Any]:
    """Both as robustok knows them, in float32. Raises ValueError for what is neither."""
    tokenizer, generator = (
        in_float32(model) if isinstance(model, torch.nn.Module) else model
        for model in adapted(tokenizer, generator, image_size=image_size)
    )
    if not (callable(getattr(tokenizer, "encode", None)) and callable(getattr(tokenizer, "decode", None))):
        raise ValueError(f"{in_short(tokenizer)} is no tokenizer; load one: robustok.load_tokenizer(name)")
    if generator is not None and lacking(generator):
        raise ValueError(f"{in_short(generator)} is no generator; load one: robustok.load_generator(name)")
    return tokenizer, generator


def _labels(labels: Any, null_class: int) -> Labels:
    """Class numbers, on the CPU. Raises ValueError for none, and for what is no class."""
    try:
        found = [whole_number(label) for label in labels]
    except TypeError:  # one label alone
        found = [None]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):  # with True and False among what is none: a mask is no list of classes
        raise ValueError(f"labels are {labels!r:.99}; give the numbers of classes, such as [0, 1]")
    if not numbers:
        raise ValueError("labels are empty; give the number of at least one class, such as [0, 1]")
    if unknown := sorted({label for label in numbers if not 0 <= label <= null_class}):
        raise ValueError(f"labels go from 0 to {null_class - 1}, and {null_class} is for no label; not {unknown[0]}")
    return torch.tensor(numbers)


def _settings(usual: AnySampling, given: Mapping[str, Any]) -> Any:
    """Settings of sampling with some of them changed. Raises ValueError that names the field."""
    changed: dict[str, Any] = {name: _plain(value) for name, value in given.items()}
    with suppress(TypeError):
        replace(usual, **changed)  # says of numbers what is wrong with them; of names and types what follows does
    return from_plain(type(usual), to_plain(usual) | changed)


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _counts(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a score, those that count something as Python's numbers. Raises ValueError that names the one."""
    counts = dict[str, int]()
    for name, least in (("batch_size", 1), ("keep", 1), ("pfid_images", 2)):
        if options.get(name) is None:
            continue
        count = whole_number(options[name])
        if count is None or count < least:
            raise ValueError(f"{name} is {options[name]!r}; give a whole number from {least} up")
        counts[name] = count
    return options | counts


def _place(folder: Any) -> Path:
    try:
        if not (name := os.fspath(folder)):  # which is the current folder
            raise TypeError
        return home(name)
    except TypeError as error:
        raise ValueError(f"folder is {folder!r}; give a path") from error
