"""A pilot: a small generator, trained shortly on a frozen latent space, that shows how generators will err in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from robustok.data.images import Indices
from robustok.data.order import batch_indices
from robustok.evaluation.decoding import encoded
from robustok.evaluation.features.image_source import ImageSource, images_at
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Labels
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.protocol import TokenizerLike

BLOCK = 250  # images encoded at a time

Shown = TypeVar("Shown", bound=ImageSource)
AnyPilot = TypeVar("AnyPilot", AutoregressiveModel, DiffusionTransformerModel)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Perturbation in two phases, of which a pilot shows something: its training, and when the second phase begins."""

    beta: float = 1.0  # fraction of the batch's images that are perturbed, 0 to 1
    # fraction of training after which perturbation begins and only the decoder learns; 0: that of a given tokenizer
    freeze_from: float = 0.75
    steps: int = 300  # of the pilot
    batch_size: int = 64  # of the pilot
    lr: float = 1e-3  # of the pilot, falling to 0 along a line
    width: int = 128  # channels of the pilot
    depth: int = 2  # transformer blocks of the pilot
    train_images: int = 20_000  # whose tokens or latents it learns, at most

    def __post_init__(self) -> None:
        self.as_perturbation()  # checks beta and freeze_from
        for name in ("steps", "batch_size", "width", "depth", "train_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"the pilot's {name} is {getattr(self, name)}; it must be at least 1")
        if self.lr <= 0 or self.width % 32:
            raise ValueError(
                f"the pilot's lr is {self.lr} and its width {self.width}; give a positive lr and a multiple of 32"
            )

    def as_perturbation(self, *measured: Any) -> Any:
        """What it comes to, with an alpha and a delta where they have been measured."""
        alpha, delta = measured or (1.0, 1)
        start = self.freeze_from
        return Perturbation(alpha=alpha, beta=self.beta, delta=delta, latent_space="frozen", freeze_from=start)


def now(perturbation: Any, *measured: Any) -> Any:
    """The perturbation itself, or what one with a pilot comes to, once something has been `measured`."""
    return perturbation.as_perturbation(*measured) if isinstance(perturbation, Pilot) else perturbation


def pilot_images(config: Pilot, images: Shown | None, seed: int) -> tuple[Shown, Indices]:
    """The images, and which of them a pilot learns. Raises ValueError for no images."""
    if images is None:
        raise ValueError(
            "a rehearsed perturbation trains a pilot generator on some images; give them to set_reference first"
        )
    return images, torch.randperm(len(images), generator=stream(seed, "pilot images"))[: config.train_images]


def encoded_images(tokenizer: TokenizerLike, images: ImageSource, rows: Indices) -> Tensor:
    """The tokens (b n) of some images, or their latents (b n d) without a codebook, on the CPU."""
    return torch.cat([encoded(tokenizer, images_at(images, part), BLOCK) for part in rows.split(BLOCK)])


def new_pilot(config: Pilot, tokens: int, codes: int, classes: int) -> AutoregressiveModel:
    """A pilot before its training, of so many tokens an image."""
    shape = Autoregressive(
        codebook_size=codes,
        tokens=tokens,
        classes=max(1, classes),
        width=config.width,
        depth=config.depth,
        heads=config.width // 32,
        order="raster",
    )
    return AutoregressiveModel(shape)


def train_pilot(
    config: Pilot, build: Callable[[], AnyPilot], latents: Tensor, labels: Labels, device: torch.device, *, seed: int
) -> AnyPilot:
    """A small generator on a device, after a short training on tokens (b n) or latents (b n d) of the CPU.

    `build` makes it with fresh weights. Raises ValueError where they are not finite in the end.
    """
    torch.manual_seed(derive(seed, "pilot weights"))
    model = build().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.96), weight_decay=0.03)
    batch_size = min(config.batch_size, len(latents))
    for step in range(config.steps):
        rows = batch_indices(len(latents), batch_size, seed, step)
        drawn = model.draw(batch_size, generator=stream(seed, "pilot label dropout", step))
        loss = model.loss(latents[rows].to(device), labels[rows].to(device), drawn)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise ValueError(
            f"the pilot's training ended in NaN or infinity at lr {config.lr:g}; lower the perturbation's lr, for "
            "example to 1e-3"
        )
    return model.eval().requires_grad_(False)
