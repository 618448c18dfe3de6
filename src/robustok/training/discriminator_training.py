"""The discriminator's side of training an image decoder: its network, its optimizer, and the generator loss.

It sees images from `disc_start` on and the decoder feels it from `gan_start` on, both fractions of training. A fresh
discriminator's gradient is noise, so the decoder is left alone until it has learned; RobusTok starts both at 56 of 200
epochs, and there the decoder waits one step.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robustok.losses.adversarial import LogitAverages, discriminator_loss, generator_loss, lecam
from robustok.losses.augmentation import Augmentation, Changes, augment, draw_changes
from robustok.losses.discriminator import (
    AnyDiscriminator,
    DinoDiscriminator,
    FeatureDiscriminator,
    PatchGAN,
    activations,
)
from robustok.losses.perceptual import FeatureMaps
from robustok.runtime.checkpoint import load_model, load_weights, save_model
from robustok.runtime.configs import from_plain, to_plain
from robustok.runtime.distributed import mean
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Images, Scalar
from robustok.training.micro_batch import MicroBatch
from robustok.training.optim import Optim, Optimizer, Precision, autocast
from robustok.training.pretrained import discriminator


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """A discriminator that tells real images from decoded ones."""

    discriminator: PatchGAN | FeatureDiscriminator | DinoDiscriminator = field(  # its network
        default_factory=FeatureDiscriminator
    )
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, weight_decay=5e-4))  # how it learns
    kind: Literal["hinge", "non-saturating"] = "hinge"  # the loss of both players
    disc_start: float = 0.26  # fraction of training after which the discriminator learns
    gan_start: float = 0.28  # fraction of training after which the decoder has an adversarial loss
    adaptive: bool = True  # balance against the gradient of the reconstruction terms (arXiv 2012.09841, eq. 7)
    adaptive_max: float = 1e4  # the most that the balance multiplies by; VQGAN's, which is hardly a limit
    lecam: float = 0.001  # weight of the LeCam regularizer (arXiv 2104.03310)
    augmentation: Augmentation = field(default_factory=Augmentation)  # of what the discriminator sees

    def __post_init__(self) -> None:
        if not 0 <= self.disc_start <= self.gan_start <= 1:
            raise ValueError(
                "disc_start and gan_start are fractions of training, the first not above the second: the "
                f"discriminator learns before the decoder meets it; not {self.disc_start} and {self.gan_start}"
            )
        if not self.adaptive_max > 0:
            raise ValueError(
                f"adaptive_max is {self.adaptive_max}, but the balance multiplies by more than 0; give 1 where the "
                "adversarial term is not to pull harder than its weight says, 1e4 as VQGAN has it, or set the weight "
                "of the adversarial term to 0"
            )


class DiscriminatorTrainer:
    """A discriminator in training: `generator_loss` is for the decoder, `backward` and `step` are its own."""

    def __init__(self, config: Adversarial, steps: int, seed: int, device: torch.device, precision: Precision = "auto"):
        self.config, self.steps, self.seed = config, steps, seed
        self.device, self.precision = device, precision
        torch.manual_seed(derive(seed, "discriminator weights"))
        self.model = discriminator(config.discriminator).to(device)
        self.optimizer = Optimizer(self.model, config.optim, steps)
        self.averages = LogitAverages().to(device)

    def disc_started(self, step: int) -> bool:
        """True when the discriminator trains in this step."""
        return step >= self.config.disc_start * self.steps

    def gan_started(self, step: int) -> bool:
        """True when the decoder has an adversarial loss in this step: never before the discriminator took one."""
        return step >= self.config.gan_start * self.steps and self.disc_started(step - 1)

    def takes_maps(self, size: int | None, stages: int) -> bool:
        """Whether it judges maps of the frozen Lite0, the first `stages` of them, of images that are only resized."""
        config = self.config.discriminator
        return (
            isinstance(config, FeatureDiscriminator)
            and config.size == size
            and max(config.stages) <= stages
            and self.config.augmentation.probability == 0
        )

    def _logits(self, images: Images, maps: FeatureMaps | None, purpose: str, step: int, micro: MicroBatch) -> Tensor:
        if maps is not None:
            return self.model(images, maps).float()
        generator = stream(self.seed, purpose, step, micro.number)
        changes = draw_changes(self.config.augmentation, micro.size, generator=generator)
        # Drawn for all rows and cut, so that an image is augmented alike on any number of processes.
        return self.model(augment(images, Changes(*(change[micro.rows.own] for change in changes)))).float()

    def generator_loss(
        self,
        output: Images,
        step: int,
        micro: MicroBatch,
        maps: FeatureMaps | None = None,
        *,
        with_features: bool = False,
    ) -> tuple[Scalar, list[Tensor]]:
        """The adversarial loss of decoded images, and their activations, by the discriminator before its own step.

        `maps` are those of the images where it `takes_maps` and they are known already. Activations are kept, and the
        network's layers hooked, only `with_features`; otherwise there are none.
        """
        kept = activations(self.model) if with_features else nullcontext(list[Tensor]())
        with autocast(self.device, self.precision), kept as features:
            logits = self._logits(output, maps, "augmentation for the decoder", step, micro)
        return generator_loss(logits, self.config.kind), features

    def backward(
        self,
        target: Images,
        output: Images,
        step: int,
        micro: MicroBatch,
        maps: tuple[FeatureMaps | None, FeatureMaps | None] = (None, None),
    ) -> dict[str, Tensor]:
        """Add the gradient of the discriminator's own loss on real and decoded images, whose `maps` may be known."""
        with autocast(self.device, self.precision):
            real, fake = (
                self._logits(images.detach(), known, "augmentation for the discriminator", step, micro)
                for images, known in zip((target, output), maps, strict=True)
            )
        loss = discriminator_loss(real, fake, self.config.kind)
        terms = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        terms = {name: term.detach() for name, term in terms.items()}
        if self.config.lecam:
            # LeCam compares logits with running averages of all ranks' logits; they move once a step, by all of it.
            means = [mean(micro.weight * logits.detach().mean()) for logits in (real, fake)]
            self.averages.update(means[0], means[1], micro.size / micro.batch, first=micro.number == 0)
            loss = loss + self.config.lecam * lecam(real, fake, self.averages)
        self.optimizer.backward(loss, micro.fraction, last=micro.last)
        return terms

    def step(self, step: int) -> dict[str, Tensor]:
        """Take the discriminator's optimizer step."""
        terms = self.optimizer.step(step)
        return {"discriminator_gradient_norm": terms["gradient_norm"], "skipped": terms["skipped"]}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "averages")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("model", "optimizer", "averages"):
            getattr(self, name).load_state_dict(state[name])

    def save(self, folder: str | Path) -> None:
        """Write the network, for another stage to begin with."""
        about = {"kind": "discriminator", "config": to_plain(self.config.discriminator)}
        save_model(folder, self.model.state_dict(), about)

    def begin_with(self, folder: str | Path) -> None:
        """Take over the network of an earlier stage. Raises ValueError when it is another kind of network."""
        state, saved = load_model(folder, "discriminator")
        theirs = from_plain(AnyDiscriminator, saved["config"])
        if theirs != self.config.discriminator:
            raise ValueError(
                f"the discriminator in {folder} is {theirs}, not {self.config.discriminator}; "
                "configure the same one, or begin with a fresh one"
            )
        load_weights(self.model, state, folder)
