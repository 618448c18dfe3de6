"""Sampling from a masked generator as MaskGIT does: all tokens are drawn at once, the least certain ones again.

Chang et al. 2022 (arXiv 2202.04200), sec. 3.2 and their code: every step draws each masked token, keeps those of which
the generator is most certain, with Gumbel noise on the log-probabilities, and masks the others again, fewer each time.
Where some tokens are an image's own, sampling begins at the first step that leaves fewer masked than there are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import (
    Kept,
    Sampling,
    Schedule,
    draw,
    guidance_scales,
    guide,
    in_batches,
    probabilities,
)
from robustok.shapes import Labels, TokenMask, Tokens


@dataclass(frozen=True, kw_only=True)
class MaskedSampling(Sampling):
    """How tokens are drawn from a masked generator's predictions; a prediction is a step."""

    asks: ClassVar[str] = "predict_masked"
    steps: int = 12  # from all tokens masked to none; MaskGIT takes 8 to 12
    choice_temperature: float = 4.5  # of the noise by which tokens are kept; it falls linearly, to 0 at the last step
    schedule: Schedule = "linear"  # how the scale of guidance gets from 1 to g

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, which must be at least 1")
        if not 0 <= self.choice_temperature < math.inf:
            raise ValueError(
                f"choice_temperature is {self.choice_temperature}; choose 0 to keep the likeliest tokens, or more"
            )


def masked_after(n: int, steps: int) -> list[int]:
    """How many of n tokens are masked after each step: floor(n cos(pi/2 s / steps)) after step s of 1 to `steps`.

    At least one less than before, at least one until the last step, and none after it.
    """
    counts, left = [], n
    for step in range(1, steps):
        left = max(1, min(left - 1, math.floor(n * math.cos(math.pi / 2 * step / steps))))
        counts.append(left)
    return [*counts, 0]


@torch.no_grad()
def sample_masked(
    generator: GeneratorLike,
    labels: Labels,
    config: MaskedSampling,
    *,
    seed: int,
    first: int = 0,
    keep: TokenMask | None = None,
    tokens: Tokens | None = None,
    null_class: bool = False,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Tokens:
    """Tokens of one image per label by a masked generator; arguments and errors are those of `sample_tokens`.

    Where `keep` is true the given `tokens` stay. An image of which m tokens are to be drawn takes the steps that leave
    fewer than m masked, with the random numbers that these have when all are drawn.
    """
    n = generator.tokens_per_image

    def finish(labels: Labels, uniform: Float[Tensor, "b u"], kept: Kept | None) -> Tokens:
        return _sample_batch(generator, labels, config, uniform.view(len(labels), config.steps, 2, n), kept)

    how: dict[str, Any] = {"seed": seed, "first": first, "keep": keep, "tokens": tokens, "null_class": null_class}
    numbers = config.steps * 2 * n
    return in_batches(finish, generator, labels, numbers, **how, batch_size=batch_size, progress=progress)


def _sample_batch(
    generator: GeneratorLike,
    labels: Labels,
    config: MaskedSampling,
    uniform: Float[Tensor, "b steps 2 n"],
    kept: Kept | None,
) -> Tokens:
    n, mask = generator.tokens_per_image, generator.codebook_size
    result = labels.new_full((len(labels), n), mask)
    if kept is not None:
        result = torch.where(kept.keep, kept.tokens, result)
    finite = torch.ones((), dtype=torch.bool, device=labels.device)
    scales = guidance_scales(config, config.steps)
    for step, (left, scale) in enumerate(zip(masked_after(n, config.steps), scales, strict=True)):
        rows = ((result == mask).sum(dim=1) > left).nonzero().flatten()
        if not len(rows):
            continue
        tokens, (for_tokens, for_choice) = result[rows], uniform[rows, step].unbind(1)
        masked = tokens == mask
        p = probabilities(_logits(generator, tokens, labels[rows], masked, scale), config)
        finite = finite & p.sum().isfinite()
        drawn = draw(p, for_tokens[masked]).clamp(max=p.shape[1] - 1)
        certain = p.gather(1, drawn[:, None])[:, 0].double().log()
        if temperature := config.choice_temperature * (1 - (step + 1) / config.steps):
            certain = certain - temperature * (-for_choice[masked].log()).log()  # a Gumbel variate more
        tokens[masked] = drawn
        certainty = for_choice.new_full(tokens.shape, math.inf)
        certainty[masked] = certain
        tokens.scatter_(1, certainty.argsort(dim=1, stable=True)[:, :left], mask)
        result[rows] = tokens
    if not finite:
        raise ValueError("sampling ended in NaN or infinity; use less guidance, a higher temperature, or other weights")
    return result


def _logits(
    generator: GeneratorLike, tokens: Tokens, labels: Labels, masked: TokenMask, scale: float
) -> Float[Tensor, "m k"]:
    """Guided logits of the masked tokens of all images, one after the other."""
    if scale == 1:
        return generator.predict_masked(tokens, labels)[masked].float()
    both = torch.cat([labels, torch.full_like(labels, generator.null_class)])
    labelled, unlabelled = generator.predict_masked(tokens.repeat(2, 1), both).float().chunk(2)
    return guide(labelled[masked], unlabelled[masked], scale)
