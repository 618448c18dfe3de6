"""Stage 2: a generator learns to predict a tokenizer's tokens, class by class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.data.order import batch_indices
from robustok.data.tokens import TokenCache
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel, order_share
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import derive, stream
from robustok.training.loop import Loop, Picture, run
from robustok.training.optim import Average, Optim, Precision, Update, autocast, split


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """How a generator is trained on cached tokens."""

    generator: Autoregressive  # what is trained
    loop: Loop  # how long, and how often to look
    optim: Optim = field(  # RAR's: arXiv 2411.00776, table 9
        default_factory=lambda: Optim(lr=4e-4, betas=(0.9, 0.96), weight_decay=0.03)
    )
    order_start: float = 0.5  # share of training after which random orders begin to give way to raster order
    order_end: float = 0.75  # share of training after which every image comes in raster order
    average: float = 0.9999  # decay of the weight average, which is what is kept
    precision: Precision = "auto"  # bf16 where the hardware multiplies it

    def __post_init__(self) -> None:
        if not 0 <= self.order_start <= self.order_end <= 1:
            raise ValueError(
                "order_start and order_end are shares of training, the first not above the second; "
                f"not {self.order_start} and {self.order_end}"
            )


class GeneratorStage:
    """The generator, its optimizer and its weight average."""

    def __init__(self, config: GeneratorTraining, device: str | torch.device = "cpu"):
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(derive(config.loop.seed, "generator weights"))
        self.model = AutoregressiveModel(config.generator).to(self.device)
        self.update = Update(self.model, config.optim, config.loop.steps)
        self.average = Average(self.model, config.average)

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One step on (tokens (b n), labels (b))."""
        config = self.config
        share_permuted = 0.0
        if config.generator.order == "random":
            share_permuted = order_share(step / config.loop.steps, config.order_start, config.order_end)
        generator = stream(config.loop.seed, "order and label dropout", step)
        total = torch.zeros((), device=self.device)
        for (tokens, labels), share in split(batch, config.optim.accumulate):
            with autocast(self.device, config.precision):
                loss = self.model.loss(
                    tokens.to(self.device),
                    labels.to(self.device),
                    order_share=share_permuted,
                    generator=generator,
                )
            self.update.backward(loss, share)
            total += share * loss.detach()
        terms = {"loss": total} | self.update.apply(step)
        self.average.update(self.model)
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "update": self.update.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.update.load_state_dict(state["update"])
        self.average.load_state_dict(state["average"])


def train_generator(
    config: GeneratorTraining,
    cache: TokenCache,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    check: Callable[[AutoregressiveModel, int], Mapping[str, float]] | None = None,
    check_every: int = 0,
    preview: Callable[[AutoregressiveModel], Mapping[str, Picture]] | None = None,
    quiet: bool = False,
) -> AutoregressiveModel:
    """Train a generator on cached tokens; the averaged weights go to `folder` and are returned.

    `check(model, steps taken)` gives values for the log every `check_every` steps, `preview(model)` pictures as often
    as the loop says, both of the averaged model. A run that was stopped goes on. Raises ValueError when the cache's
    tokens do not fit the generator.
    """
    wanted = (config.generator.codebook_size, config.generator.tokens)
    given = (cache.codebook_size, cache.tokens_per_image)
    classes = int(cache.labels.max()) + 1
    if wanted != given or classes > config.generator.classes:
        raise ValueError(
            f"the generator is made for {wanted[0]} codes, {wanted[1]} tokens and {config.generator.classes} classes, "
            f"the cache has {given[0]}, {given[1]} and {classes}; set codebook_size, tokens and classes to those"
        )
    stage = GeneratorStage(config, device)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        indices = batch_indices(len(cache), config.loop.batch_size, config.loop.seed, step)
        return cache.batch(indices, stream(config.loop.seed, "view", step))

    run(
        stage,
        batches,
        config.loop,
        Path(folder),
        name="generator",
        describe={"stage": to_plain(config), "tokens": {"tokenizer": cache.fingerprint, "images": cache.images}},
        preview=None if preview is None else lambda done: preview(stage.average.module),
        check=None if check is None else lambda done: check(stage.average.module, done),
        check_every=check_every,
        quiet=quiet,
    )
    stage.average.module.save_pretrained(folder)
    return stage.average.module
