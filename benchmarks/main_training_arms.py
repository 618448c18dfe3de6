"""The arms of the main-training study: what they differ in, and how large the problem is that they share."""

from dataclasses import dataclass, replace
from typing import Literal

from robustok.generators.autoregressive import Autoregressive
from robustok.losses.augmentation import Augmentation
from robustok.losses.discriminator import FeatureDiscriminator
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.quantizer import BSQ, FSQ, VQ
from robustok.tokenizer.tokenizer import TokenizerConfig
from robustok.training.discriminator_training import Adversarial
from robustok.training.generator_training import GeneratorTraining
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.rehearsal import Rehearsed
from robustok.training.tokenizer_training import TokenizerTraining

CODES = 1024
FIRST = "two phases"  # the arm whose clean first phase, and whose pilot generator, the others in two phases share
SAVED = 250  # steps between saves of a tokenizer, of which one is where the second phase begins


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the problem is, and how many images each score takes."""

    side: int = 32
    train: int = 55_000  # training images, at most
    validation: int = 10_000  # images that gFID is measured against, every class equally often
    held_out: int = 5_000  # of the training images, every class equally often; they choose the guidance
    tokenizer_steps: int = 2_000
    generator_steps: int = 1_600
    classifier_steps: int = 1_200
    looked_at: int = 500  # held-out images of a tokenizer's validation loss
    perturbed: int = 1_000  # validation images of rFID and pFID
    tuned_by: int = 1_000  # generated images for each guidance
    along: int = 1_000  # generated images for each point of the course
    generated: int = 5_000  # generated images at the end
    compared: int = 2_500  # images on either side of precision and recall


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train a tokenizer."""

    perturbation: Perturbation | Rehearsed
    semantic: float = 0.0
    imitates: Literal["", "departures", "latents"] = ""  # what of a pilot generator alpha and delta are measured on


TWO_PHASES = Perturbation(alpha=0.3, beta=1.0, delta=40, latent_space="frozen", freeze_from=0.75)
ARMS = {
    "none": Arm(perturbation=Perturbation(beta=0.0)),
    "paper": Arm(perturbation=Perturbation(alpha=1.0, beta=0.1, delta=25)),
    "half of the images": Arm(perturbation=Perturbation(alpha=1.0, beta=0.5, delta=40)),
    "stopped": Arm(perturbation=Perturbation(alpha=1.0, beta=0.5, delta=40, latent_space="stopped")),
    "two phases": Arm(perturbation=TWO_PHASES),
    "two phases, clean": Arm(perturbation=replace(TWO_PHASES, beta=0.0)),
    "two phases, as it departs": Arm(perturbation=TWO_PHASES, imitates="departures"),
    "two phases, as it samples": Arm(perturbation=TWO_PHASES, imitates="latents"),
    "two phases, rehearsed": Arm(perturbation=Rehearsed()),
    "none, semantic": Arm(perturbation=Perturbation(beta=0.0), semantic=0.1),
    "two phases, semantic": Arm(perturbation=TWO_PHASES, semantic=0.1),
}
QUEUE: tuple[tuple[str, int], ...] = (
    ("none", 0),
    ("two phases", 0),
    ("two phases, clean", 0),
    ("none", 1),
    ("two phases", 1),
    ("two phases, clean", 1),
    ("paper", 0),
    ("none", 2),
    ("two phases", 2),
    ("two phases, clean", 2),
    ("none, semantic", 0),
    ("two phases, semantic", 0),
    ("two phases, as it samples", 0),
    ("paper", 1),
    ("paper", 2),
    ("stopped", 0),
    ("two phases, as it departs", 0),
    ("half of the images", 0),
    ("two phases, as it samples", 1),
    ("two phases, as it samples", 2),
    ("two phases, rehearsed", 0),
    ("two phases, rehearsed", 1),
    ("two phases, rehearsed", 2),
    ("none", 3),
    ("two phases", 3),
    ("two phases, rehearsed", 3),
    ("two phases, clean", 3),
    ("none", 4),
    ("two phases", 4),
    ("two phases, rehearsed", 4),
    ("two phases, clean", 4),
    ("stopped", 1),
    ("stopped", 2),
    ("none, semantic", 1),
    ("two phases, semantic", 1),
    ("none, semantic", 2),
    ("two phases, semantic", 2),
)


def main_training(arm: Arm, size: Size, seed: int, quantizer: VQ | FSQ | BSQ | None = None) -> TokenizerTraining:
    """The arm's main training, with the study's quantizer unless another one is given."""
    part = Conv(stem=2, channels=(32, 96), blocks=1, attention=False)
    adversary = Adversarial(
        discriminator=FeatureDiscriminator(stages=(2, 3), width=48),
        optim=Optim(lr=5e-4, betas=(0.5, 0.9)),
        disc_start=0.5,
        gan_start=0.55,
        augmentation=Augmentation(probability=0.0),
    )
    return TokenizerTraining(
        tokenizer=TokenizerConfig(
            image_size=size.side,
            encoder=part,
            quantizer=quantizer or VQ(codebook_size=CODES, width=16),
            decoder=part,
            channels=1,
        ),
        loop=Loop(
            steps=size.tokenizer_steps, batch_size=32, seed=seed, save_every=SAVED, keep_last=99, keep_best="none"
        ),
        perturbation=arm.perturbation,
        objective=Objective(
            l1=1.0, l2=1.0, perceptual=1.0, perceptual_stages=4, adversarial=0.5, frechet=0.5, adversary=adversary
        ),
        semantic=arm.semantic,
        semantic_size=64,
        optim=Optim(lr=2e-3, warmup=50, final_lr_fraction=0.05),
        ema_decay=0.995,
    )


def generator_training(tokens: int, size: Size, seed: int, codes: int = CODES) -> GeneratorTraining:
    return GeneratorTraining(
        generator=Autoregressive(
            codebook_size=codes, tokens=tokens, classes=10, width=128, depth=2, heads=4, order="raster"
        ),
        loop=Loop(steps=size.generator_steps, batch_size=64, seed=seed, save_every=200, keep_best="none"),
        optim=Optim(lr=2e-3, betas=(0.9, 0.96), weight_decay=0.03, warmup=50, final_lr_fraction=0.05),
        ema_decay=0.99,
    )


def file_name(arm: str, seed: int) -> str:
    return f"{arm.replace(',', '').replace(' ', '_')}_{seed}"
