"""What a run needs beside its step's products: what it gathers, what it stores, its step with checkpointing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.tokenizer import TokenizerConfig
from robustok.training.cost.counted_step import CountedStep, Training, count_step
from robustok.training.cost.estimate import Strategy, Work
from robustok.training.generator_training import GeneratorTraining
from robustok.training.main_training import MainTraining

COUNTED = 8, 16  # images of the two steps that a straight line is laid through
JPEG = 110_000  # bytes of an image of ImageNet, on average
CROPS = 10  # views of an image that a cache of tokens holds: RAR's ten crops
FLIPS = 2  # views that a cache of latents holds
HALF = 2  # bytes of a token, and of a number of a latent


@dataclass(frozen=True)
class CountedRun:
    """A run's step, counted at two batches: as it is, and with every block's activations computed again."""

    plain: Sequence[CountedStep]
    checkpointed: Sequence[CountedStep]


def count_run(stage: Training, tokenizer: TokenizerConfig | AutoencoderConfig | None = None) -> CountedRun:
    """The counts that estimates are made of; `tokenizer` as `count_step` takes it."""
    again = replace(stage, speed=replace(stage.speed, checkpointing=True))
    checkpointed = [count_step(again, batch, tokenizer) for batch in COUNTED]
    return CountedRun(
        checkpointed if again == stage else [count_step(stage, batch, tokenizer) for batch in COUNTED], checkpointed
    )


def work_of(stage: Training) -> Work:
    """Its steps, and what all GPUs get of all images: both sides of the contrastive term."""
    gathered = 0
    if isinstance(stage, MainTraining) and stage.semantic and stage.tokenizer is not None:
        gathered = 2 * 4 * stage.tokenizer.quantizer.width
    loop = stage.loop
    return Work(steps=loop.steps, batch_size=loop.batch_size, accumulate=stage.optim.accumulate, gathered=gathered)


def strategy_of(stage: Training) -> Strategy:
    """Whether weights are cut over the processes."""
    return "fsdp" if isinstance(stage, GeneratorTraining) and stage.shard else "ddp"


def storage(stage: Training, images: int) -> dict[str, int]:
    """Bytes on disk of so many images, as the stage reads them."""
    if not isinstance(stage, GeneratorTraining) or stage.generator is None:
        return {"images as JPEG": images * JPEG}
    tokens, channels = stage.generator.tokens, getattr(stage.generator, "channels", None)
    if channels is None:
        return {f"tokens of {CROPS} crops of each": images * CROPS * tokens * HALF}
    return {f"latents of {FLIPS} views of each": images * FLIPS * tokens * channels * HALF}
