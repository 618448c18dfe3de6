"""How long a demo will take here: a few steps of every kind are timed, and counted as often as the demo takes them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from robustok.demo.config import Demo, DemoImages
from robustok.demo.effects import LOOKED_AT
from robustok.demo.scores import SPACES, unseen
from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.scores.feature_stream import extracted
from robustok.generators.generate import sample
from robustok.runtime.logging import clock
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import GeneratorStage
from robustok.training.optim import autocast
from robustok.training.pilot import Pilot
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

FEW = 64  # images that are timed, as many as extractors take at once
ENOUGH = 100  # images for a pilot to be calibrated on
CELLS = 15  # of pFID
NAMES = {
    "tokenizer": "tokenizer",
    "tokenizer_scores": "its scores",
    "generator": "generator",
    "sampling": "samples",
    "post_training": "post-training",
    "control": "control",
    "generation_scores": "scores",
}


def planned(config: Demo, images: DemoImages, control: bool = True) -> dict[str, float]:
    """Seconds that each stage will take at the pace of a few steps now, on models that have not learned anything.

    What is not timed, such as previews, saves and intervals of scores, is not in it.
    """
    with torch.random.fork_rng(devices=[]):
        return _in_stages(config, timed(config, images), control, views=2 if images.train.flip else 1)


def timed(config: Demo, images: DemoImages) -> dict[str, float]:
    """Seconds of one step of each training, and of one image that is sampled, encoded, decoded, and seen in a space."""
    few = images.train.subset(torch.arange(min(FEW, len(images.train))))
    real, labels = few.images(torch.arange(len(few))), few.labels
    main = TokenizerStage(_briefly(config.main))
    main.set_reference(images.train.subset(torch.arange(min(ENOUGH, len(images.train)))))
    batch = _batch(real, config.main.loop.batch_size)
    last = config.main.loop.steps - 1  # the discriminator takes part later on
    ends = [_seconds(partial(main.step, batch, step)) for step in (min(1, last), last)]
    tokenizer: Any = main.averaged()
    own = encoded(tokenizer, real)

    stage = GeneratorStage(config.generator)
    size = config.generator.loop.batch_size
    inputs = _batch(own, size), _batch(labels, size)
    taken = {"tokenizer": sum(ends) / 2, "generator": _seconds(lambda: stage.step(inputs, 0))}

    # The discriminator that main training leaves takes part from the first step on.
    objective = config.post.objective
    begun = replace(objective, adversary=replace(objective.adversary, disc_start=0.0, gan_start=0.0))
    post: DecoderStage[Any] = DecoderStage(replace(config.post, objective=begun), tokenizer)
    post.image_loss.set_reference(few)
    size = config.post.loop.batch_size
    pairs = _batch(own, size), _batch(real, size)
    taken["post"] = _seconds(lambda: post.step(pairs, 0))

    def drawn() -> Tensor:
        with autocast(stage.device, config.post.sampling_precision):
            return sample(stage.averaged(), labels, config.post.sampling, seed=config.seed)

    pixels = torch.cat(list(decoded(tokenizer, own)))
    per_image: dict[str, Callable[[], object]] = {
        "sample": drawn,
        "encode": lambda: encoded(tokenizer, real),
        "decode": lambda: list(decoded(tokenizer, own)),
    }
    for name in SPACES:
        per_image[name] = partial(extracted, extractor(name), pixels)
    return taken | {name: _seconds(work) / len(few) for name, work in per_image.items()}


def _briefly(main: TokenizerTraining) -> TokenizerTraining:
    """Main training whose pilot, where there is one, takes a single step: it is no part of what is timed."""
    how = main.perturbation
    return replace(main, perturbation=replace(how, steps=1)) if isinstance(how, Pilot) else main


def _batch(rows: Tensor, size: int) -> Tensor:
    """As many rows as that, over and over."""
    return rows[torch.arange(size) % len(rows)]


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of some work, the second time, for the first one makes ready what later ones use."""
    work()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _in_stages(config: Demo, of: Mapping[str, float], control: bool, views: int = 1) -> dict[str, float]:
    """What a demo of those costs takes, stage by stage; the generator learns so many `views` of an image."""
    main, generator, post = config.main.loop, config.generator.loop, config.post
    first, others, decoders = of[SPACES[0]], sum(of[name] for name in SPACES[1:]), 3 if control else 2
    seen = of["decode"] + first  # an image that a deciding space looks at
    looks = 1 + ceil(post.loop.steps / post.validate_every)
    witnesses = sum(of[name] for name in post.witnesses if name in of)
    tuning = post.loop.steps * of["post"] + looks * post.held_out * seen
    if post.witnesses:  # they see what the best decoder makes, and the original
        tuning += 2 * post.held_out * (of["decode"] + witnesses)
    seen_by_eye = [of[name] for name in unseen(config)[-1:]]  # an image that the effects' space looks at
    looked_at = min(LOOKED_AT, config.scored, config.train_images)  # of each decoder's images and twice real ones
    stages = {
        "tokenizer": main.steps * of["tokenizer"],
        "tokenizer_scores": (config.reference + config.scored) * first
        + config.scored * (of["encode"] + seen)
        + CELLS * config.pfid_images * seen,
        "generator": generator.steps * of["generator"] + views * config.train_images * of["encode"],
        "sampling": config.scored * of["sample"],
        "post_training": (post.held_out + post.pairs) * of["sample"] + post.held_out * (first + witnesses) + tuning,
        "control": tuning,
        "generation_scores": decoders * config.scored * (seen + others)
        + config.reference * others
        + sum(looked_at * ((2 + decoders) * image + decoders * of["decode"]) for image in seen_by_eye),
    }
    return {name: seconds for name, seconds in stages.items() if control or name != "control"}


def plan_in_words(plan: Mapping[str, float]) -> str:
    """`tokenizer 4:05 min, its scores 1:16 min, ...: about 12:30 min in all`."""
    each = ", ".join(f"{NAMES[name]} {clock(seconds)}" for name, seconds in plan.items())
    return f"{each}: about {clock(sum(plan.values()))} in all"
