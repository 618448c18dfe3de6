"""The three sizes of a full-scale run: the paper's, the same work on one GPU of 24 GB, and a few steps on a CPU."""

from dataclasses import replace
from typing import Any, Literal, TypeAlias

from robustok.training.loop import Loop

Scale: TypeAlias = Literal["paper", "one_gpu", "smoke"]
IMAGES = 1_281_167  # of ImageNet's training set


def epochs(count: int, batch_size: int, images: int = IMAGES) -> int:
    """Steps in so many epochs, in each of which what does not fill a batch is left out."""
    return count * (images // batch_size)


def in_micro_batches(config: Any, micro_batches: int, *, checkpointing: bool = False) -> Any:
    """The same global batch, worked through in micro-batches that a smaller memory holds.

    With `checkpointing` the activations of blocks are computed again, not kept, so that micro-batches can be larger.
    """
    optim = replace(config.optim, micro_batches=micro_batches)
    return replace(config, optim=optim, performance=replace(config.performance, checkpointing=checkpointing))


def brief(config: Any, **changes: Any) -> Any:
    """A stage's config with other `changes`, cut to ten steps of sixteen images; its schedules shrink along."""
    loop: Loop = config.loop
    return replace(
        config,
        loop=replace(loop, steps=10, batch_size=16, log_every=2, save_every=0, preview_every=0),
        optim=replace(config.optim, warmup=10 * config.optim.warmup // loop.steps),
        **changes,
    )
