"""Demos that take seconds, with a codebook and without: every stage of `tests.training.tiny`, few images to score."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.training.tiny import AUTOENCODER, GENERATOR, LOOP, MAIN, POST

from robustok.demo.config import Demo
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.training.generator_training import GeneratorTraining
from robustok.training.optim import Optim

MINI = Demo(
    main=replace(MAIN, semantic=0.0),
    generator=GENERATOR,
    post=replace(POST, sampling=Sampling(guidance=1.5), sigma=0.5, pairs=32, held_out=40),
    train_images=128,
    reference=60,
    scored=40,
    pfid_images=8,
)
CONTINUOUS = replace(
    MINI,
    main=AUTOENCODER,
    generator=GeneratorTraining(
        generator=DiffusionTransformer(tokens=16, channels=8, classes=10, width=64, depth=1, heads=1),
        loop=LOOP,
        optim=Optim(lr=1e-3),
        ema_decay=0.9,
    ),
    post=replace(MINI.post, sampling=FlowSampling(steps=3, guidance=1.5)),
)


class Finished(NamedTuple):
    """A demo that ran from its start to its end."""

    folder: Path
    pages: list[tuple[str, set[str]]]  # every page that it wrote, and which stages had left their model by then
