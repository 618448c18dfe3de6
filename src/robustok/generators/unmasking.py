"""Sampling from a masked generator as MaskGIT does: all tokens are drawn at once, the least certain ones again.

Chang et al. 2022 (arXiv 2202.04200), sec. 3.2 and their code: every step draws each masked token, keeps those of which
the generator is most certain, with Gumbel noise on the log-probabilities, and masks the others again, fewer each time.
Where some tokens are an image's own, sampling begins at the first step that leaves fewer masked than there are.

TiTok's generators (Yu et al. 2024, arXiv 2406.07550) are sampled in another way: the noise lies on logits, by which
tokens are drawn and kept, too, and masks follow the arccosine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import (
    Distribution,
    Kept,
    Sampling,
    Schedule,
    check_finite,
    draw_codes,
    guidance_scales,
    guide,
    probabilities,
    sample_in_batches,
)
from robustok.runtime.configs import check_least
from robustok.shapes import Labels, TokenMask, Tokens

MaskSchedule: TypeAlias = Literal["cosine", "arccos"]
NoiseOn: TypeAlias = Literal["choice", "logits"]


@dataclass(frozen=True, kw_only=True)
class MaskedSampling(Sampling):
    """How tokens are drawn from a masked generator's predictions; a prediction is a step."""

    asks: ClassVar[str] = "predict_masked"
    steps: int = 12  # from all tokens masked to none; MaskGIT takes 8 to 12
    choice_temperature: float = 4.5  # of the noise by which tokens are kept; it falls linearly, to 0 at the last step
    schedule: Schedule = "linear"  # how the scale of guidance gets from 1 to g
    # share of the tokens that are masked after a share r of the steps: cos(pi r / 2), or 2 / pi arccos(r) (TiTok)
    mask_schedule: MaskSchedule = "cosine"
    # where that noise lies: on the log-probability by which tokens are kept, or on logits, by which they are drawn and
    # kept: draws then have the temperature of the noise, at the last step 0 (TiTok, whose randomize_temperature it is)
    noise_on: NoiseOn = "choice"
    temperature_annealing: bool = False  # logits are also divided by .5 + .8 (1 - r) (TiTok)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "steps")
        if not 0 <= self.choice_temperature < math.inf:
            raise ValueError(
                f"choice_temperature is {self.choice_temperature}; choose 0 to keep the likeliest tokens, or more"
            )


def masked_after(n: int, steps: int, schedule: MaskSchedule = "cosine") -> list[int]:
    """How many of n tokens are masked after each step: floor(n cos(pi/2 r)), or floor(n arccos(r) / (pi/2)).

    r = s / steps after step s of 1 to `steps`. At least one less than before, at least one until the last step, and
    none after it.
    """
    counts, left = [], n
    for step in range(1, steps):
        cosine = math.cos(math.pi / 2 * step / steps)
        share = cosine if schedule == "cosine" else math.acos(step / steps) / (math.pi / 2)
        left = max(1, min(left - 1, math.floor(n * share)))
        counts.append(left)
    return [*counts, 0]


def tempered(logits: Float[Tensor, "*_ k"], config: MaskedSampling, step: int) -> Float[Tensor, "*_ k"]:
    """Logits at the temperature of a step of 0 to `steps` - 1, where that is annealed."""
    return logits / (0.5 + 0.8 * (1 - (step + 1) / config.steps)) if config.temperature_annealing else logits


def drawn_from(logits: Distribution, config: Sampling, step: int) -> tuple[Distribution, Callable[[Tensor], Tensor]]:
    """The probabilities from which tokens are drawn at a step, of annealed logits, and how certain each drawn one is.

    The largest of logits with Gumbel noise of a temperature is a draw from the softmax of logits / that temperature.
    """

    def at(codes: Tensor, values: Distribution) -> Tensor:
        return values.gather(1, codes[:, None])[:, 0].double()

    if not (isinstance(config, MaskedSampling) and config.noise_on == "logits"):
        p = probabilities(logits, config)
        return p, lambda codes: at(codes, p).log()
    noise = _noise(config, step)
    p = probabilities(logits / noise, config) if noise else probabilities(logits, replace(config, top_k=1))
    return p, partial(at, values=logits / config.temperature)


def _noise(config: MaskedSampling, step: int) -> float:
    return config.choice_temperature * (1 - (step + 1) / config.steps)


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
    return sample_in_batches(finish, generator, labels, numbers, **how, batch_size=batch_size, progress=progress)


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
    after = masked_after(n, config.steps, config.mask_schedule)
    for step, (left, scale) in enumerate(zip(after, scales, strict=True)):
        rows = ((result == mask).sum(dim=1) > left).nonzero().flatten()
        if not len(rows):
            continue
        tokens, (for_tokens, for_choice) = result[rows], uniform[rows, step].unbind(1)
        masked = tokens == mask
        logits = tempered(_logits(generator, tokens, labels[rows], masked, scale), config, step)
        p, certainty_of = drawn_from(logits, config, step)
        finite = finite & p.sum().isfinite()
        drawn = draw_codes(p, for_tokens[masked]).clamp(max=p.shape[1] - 1)
        certain = certainty_of(drawn)
        if temperature := _noise(config, step):
            certain = certain - temperature * (-for_choice[masked].log()).log()  # a Gumbel variate more
        tokens[masked] = drawn
        certainty = for_choice.new_full(tokens.shape, math.inf)
        certainty[masked] = certain
        tokens.scatter_(1, certainty.argsort(dim=1, stable=True)[:, :left], mask)
        result[rows] = tokens
    check_finite(finite)
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
