"""The demo without a codebook: an autoencoder, a diffusion transformer of its latents, its decoder post-trained."""

from dataclasses import replace

from robustok.demo.config import Demo
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import TrainingTimes
from robustok.presets.embedded import demo, short, smoke
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.bottleneck import KL
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.latent_perturbation import LatentNoise
from robustok.training.generator_training import GeneratorTraining
from robustok.training.loop import Loop
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerTraining


def continuous() -> Demo:
    """The default of `robustok demo --latent continuous`: 64 latents of 8 channels, sized for two CPU cores.

    18 minutes; gFID before and after post-training in three seeds: 252 -> 207, 250 -> 197, 255 -> 206.
    """
    discrete = demo()
    part = Conv(stem=2, channels=(32, 96), blocks=1, attention=False)
    return replace(
        discrete,
        main=TokenizerTraining(
            tokenizer=AutoencoderConfig(
                image_size=32, encoder=part, bottleneck=KL(width=8, weight=1e-4), decoder=part, channels=1
            ),
            loop=discrete.main.loop,
            perturbation=LatentNoise(beta=0.5, strength=0.5),
            objective=discrete.main.objective,
            optim=discrete.main.optim,
            ema_decay=discrete.main.ema_decay,
        ),
        generator=GeneratorTraining(
            generator=DiffusionTransformer(tokens=64, channels=8, classes=10, width=192, depth=6, heads=3, patch=2),
            loop=Loop(steps=1000, batch_size=128, log_every=20, save_every=250, preview_every=250),
            optim=Optim(lr=1e-3, betas=(0.9, 0.95), warmup=50),
            times=TrainingTimes(distribution="logit-normal"),
            ema_decay=0.995,
        ),
        post=replace(discrete.post, sampling=FlowSampling(steps=12, guidance=2.0, guided_to=0.8)),
        duration="about 18 minutes on two CPU cores",
    )


def continuous_short() -> Demo:
    """`robustok demo --latent continuous --preset short`: as short as the discrete one, for `--corners`."""
    return cut_as(short())


def continuous_smoke() -> Demo:
    """`robustok demo --latent continuous --preset smoke`: the same path, a few steps of everything."""
    small = cut_as(smoke())
    return replace(small, post=replace(small.post, sampling=FlowSampling(steps=6, guidance=2.0, guided_to=0.8)))


def cut_as(small: Demo) -> Demo:
    """The continuous demo with as many steps and images as a discrete one."""
    full = continuous()
    loop = replace(small.generator.loop, batch_size=full.generator.loop.batch_size)
    return replace(
        small,
        main=replace(full.main, loop=small.main.loop),
        generator=replace(full.generator, loop=loop),
        post=replace(small.post, sampling=full.post.sampling, sigma=full.post.sigma),
    )
