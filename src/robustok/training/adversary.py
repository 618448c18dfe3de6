"""The discriminator's side of training an image decoder: its network, its optimizer, and what it charges."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robustok.losses.adversarial import LogitAverages, discriminator_loss, generator_loss, lecam
from robustok.losses.augmentation import Augmentation, Draw, augment, draw
from robustok.losses.discriminator import AnyDiscriminator, DinoDiscriminator, FeatureDiscriminator, PatchGAN
from robustok.runtime.checkpoint import load_model, load_weights, save_model
from robustok.runtime.configs import from_plain, to_plain
from robustok.runtime.distributed import mean
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Images, Scalar
from robustok.training.optim import Optim, Precision, Update, autocast
from robustok.training.parts import Part
from robustok.training.pretrained import discriminator


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """A discriminator that tells real images from decoded ones."""

    discriminator: PatchGAN | FeatureDiscriminator | DinoDiscriminator = field(  # its network
        default_factory=FeatureDiscriminator
    )
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, weight_decay=5e-4))  # how it learns
    kind: Literal["hinge", "non-saturating"] = "hinge"  # the loss of both players
    learns_from: float = 0.26  # share of training after which the discriminator sees images
    charges_from: float = 0.28  # share of training after which the decoder is charged for it
    adaptive: bool = True  # balance against the gradient of the reconstruction terms (arXiv 2012.09841, eq. 7)
    lecam: float = 0.001  # weight of the LeCam regulariser (arXiv 2104.03310)
    augmentation: Augmentation = field(default_factory=Augmentation)  # of what the discriminator sees

    def __post_init__(self) -> None:
        if not 0 <= self.learns_from <= self.charges_from <= 1:
            raise ValueError(
                "learns_from and charges_from are shares of training, the first not above the second: the "
                f"discriminator sees images before the decoder is charged; not {self.learns_from} and "
                f"{self.charges_from}"
            )


class Opponent:
    """A discriminator in training. `charge` is for the decoder's step, `learn` and `apply` are its own."""

    def __init__(self, config: Adversary, steps: int, seed: int, device: torch.device, precision: Precision = "auto"):
        self.config, self.steps, self.seed, self.device, self.precision = (
            config,
            steps,
            seed,
            device,
            precision,
        )
        torch.manual_seed(derive(seed, "discriminator weights"))
        self.model = discriminator(config.discriminator).to(device)
        self.update = Update(self.model, config.optim, steps)
        self.averages = LogitAverages().to(device)

    def learns(self, step: int) -> bool:
        """Whether the discriminator trains in this step."""
        return step >= self.config.learns_from * self.steps

    def charges(self, step: int) -> bool:
        """Whether the decoder is charged in this step: never before the discriminator has learnt from some."""
        return step >= self.config.charges_from * self.steps and self.learns(step - 1)

    def _see(self, images: Images, purpose: str, step: int, part: Part) -> Tensor:
        generator = stream(self.seed, purpose, step, part.number)
        changes = draw(self.config.augmentation, part.size, generator=generator)
        return self.model(augment(images, Draw(*(change[part.rows.own] for change in changes)))).float()

    def charge(self, output: Images, step: int, part: Part) -> Scalar:
        """The adversarial loss of decoded images."""
        with autocast(self.device, self.precision):
            logits = self._see(output, "augmentation for the decoder", step, part)
        return generator_loss(logits, self.config.kind)

    def learn(self, target: Images, output: Images, step: int, part: Part) -> dict[str, Tensor]:
        """Add the gradient of the discriminator's own loss on real and decoded images."""
        with autocast(self.device, self.precision):
            real, fake = (
                self._see(images.detach(), "augmentation for the discriminator", step, part)
                for images in (target, output)
            )
        loss = discriminator_loss(real, fake, self.config.kind)
        terms = {
            "discriminator": loss.detach(),
            "logits_real": real.detach().mean(),
            "logits_fake": fake.detach().mean(),
        }
        if self.config.lecam:
            means = [mean(part.weight * logits.detach().mean()) for logits in (real, fake)]
            self.averages.update(means[0], means[1], part.size / part.batch, first=part.number == 0)
            loss = loss + self.config.lecam * lecam(real, fake, self.averages)
        self.update.backward(loss, part.share, last=part.last)
        return terms

    def apply(self, step: int) -> dict[str, Tensor]:
        """Take the discriminator's optimizer step."""
        terms = self.update.apply(step)
        return {"discriminator_gradient_norm": terms["gradient_norm"], "skipped": terms["skipped"]}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "update": self.update.state_dict(),
            "averages": self.averages.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.update.load_state_dict(state["update"])
        self.averages.load_state_dict(state["averages"])

    def save(self, folder: str | Path) -> None:
        """Write the network, for another stage to begin with."""
        save_model(
            folder,
            self.model.state_dict(),
            {"kind": "discriminator", "config": to_plain(self.config.discriminator)},
        )

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
