"""The three stages on a few images of 32 px, small enough to train in a second or two: what the tests run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustok.data.images import FashionMNIST, Subset
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.data.loading import training_batch
from robustok.data.pairs import Pairs, make_pairs
from robustok.evaluation.features.extractor import CustomExtractor, Extractor
from robustok.evaluation.scores.reference import Reference
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.masked import Masked
from robustok.generators.sampling import Sampling
from robustok.losses.discriminator import PatchGAN
from robustok.shapes import Features, Pixels
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.bottleneck import KL
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.latent_perturbation import LatentNoise
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.decoder_stage import PostTraining, TrainedDecoder, train_decoder
from robustok.training.discriminator_training import Adversarial
from robustok.training.generator_training import GeneratorTraining, train_generator
from robustok.training.held_out import HeldOut
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining, train_tokenizer

PART = Conv(stem=4, channels=(16, 32), blocks=1, attention=False)
LOOP = Loop(steps=8, batch_size=16, log_every=2, save_every=3, preview_every=4)
ADVERSARIAL = Adversarial(
    discriminator=PatchGAN(width=16, halvings=2), optim=Optim(lr=1e-3), disc_start=0.2, gan_start=0.4
)
OBJECTIVE = Objective(l1=0.5, perceptual=0.1, perceptual_stages=2, adversary=ADVERSARIAL)
MAIN = TokenizerTraining(
    tokenizer=TokenizerConfig(
        image_size=32, encoder=PART, decoder=PART, quantizer=VQ(codebook_size=32, width=8, revive_after=3)
    ),
    loop=LOOP,
    perturbation=Perturbation(beta=0.5, delta=4),
    objective=OBJECTIVE,
    semantic=0.1,
    semantic_size=32,
    optim=Optim(lr=2e-3, warmup=2),
    ema_decay=0.9,
)
TWO_PHASES = Perturbation(alpha=0.5, beta=1.0, delta=4, latent_space="frozen", freeze_from=0.5)  # from step 4 of 8
AUTOENCODER = TokenizerTraining(
    tokenizer=AutoencoderConfig(image_size=32, encoder=PART, decoder=PART, bottleneck=KL(width=8)),
    loop=LOOP,
    perturbation=LatentNoise(),
    mask_ratio_max=0.5,
    objective=OBJECTIVE,
    optim=Optim(lr=2e-3, warmup=2),
    ema_decay=0.9,
    statistics_images=64,
)
GENERATOR = GeneratorTraining(
    generator=Autoregressive(codebook_size=32, tokens=16, classes=10, width=64, depth=2, heads=1),
    loop=LOOP,
    optim=Optim(lr=1e-3),
    ema_decay=0.9,
)
MASKED = replace(GENERATOR, generator=Masked(codebook_size=32, tokens=16, classes=10, width=64, depth=2, heads=1))
POST = PostTraining(
    loop=LOOP,
    objective=replace(OBJECTIVE, frechet=0.1, adversary=replace(ADVERSARIAL, disc_start=0.0, gan_start=0.0)),
    optim=Optim(lr=1e-3),
    ema_decay=0.5,
    validate_every=4,
)


def images(count: int = 64) -> Subset:
    return FashionMNIST("train").subset(torch.arange(count))


def stepped(config: Any, steps: int, stage: Any = None, first: int = 0) -> Any:
    """A tokenizer's stage after some steps on `images()`, or a given one that goes on from `first`."""
    if stage is None:
        stage = TokenizerStage(config)
        stage.set_reference(images())
    for step in range(first, steps):
        stage.step(training_batch(images(), LOOP.batch_size, LOOP.seed, step), step)
    return stage


def coarse(pixels: Pixels) -> Features:
    """The image at 4 x 4 pixels: features that take no network."""
    return nn.functional.adaptive_avg_pool2d(pixels.float(), 4).flatten(1)


def extract() -> Extractor:
    return CustomExtractor(coarse)


def tokenizer(seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    return Tokenizer(MAIN.tokenizer).eval()


def generator() -> AutoregressiveModel:
    torch.manual_seed(1)
    return AutoregressiveModel(GENERATOR.generator).eval()


def cache(folder: Path) -> LatentCache:
    return encode_images(tokenizer(), images(), folder / "tokens")


def pairs(folder: Path, sigma: float = 0.5) -> Pairs:
    drawn = {"sampling": Sampling(), "count": 48, "seed": 0}
    return make_pairs(generator(), cache(folder), folder / f"pairs_{sigma}", sigma=sigma, **drawn)


def held_out() -> HeldOut:
    tokens = torch.randint(32, (64, 16), generator=torch.Generator().manual_seed(2))
    return HeldOut(tokenizer(), tokens, Reference.of(images(), extract()).stats, extract())


def run_main(folder: Path, **options: Any) -> None:
    train_tokenizer(MAIN, images(), folder / "run", quiet=True, **options)


def run_two_phases(folder: Path, **options: Any) -> None:
    train_tokenizer(replace(MAIN, perturbation=TWO_PHASES), images(), folder / "run", quiet=True, **options)


def run_generator(folder: Path, **options: Any) -> None:
    train_generator(GENERATOR, cache(folder), folder / "run", quiet=True, **options)


def run_masked(folder: Path, **options: Any) -> None:
    train_generator(MASKED, cache(folder), folder / "run", quiet=True, **options)


def run_post(folder: Path, config: PostTraining = POST) -> TrainedDecoder:
    return train_decoder(config, tokenizer(), pairs(folder), images(), folder / "run", held_out=held_out(), quiet=True)


def run_autoencoder(folder: Path, **options: Any) -> None:
    train_tokenizer(AUTOENCODER, images(), folder / "run", quiet=True, **options)


STAGES = {
    "main": run_main,
    "two phases": run_two_phases,
    "autoencoder": run_autoencoder,
    "generator": run_generator,
    "masked": run_masked,
    "post": run_post,
}
