"""Sampling tokens: temperature, top-k, top-p, guidance, and keeping some tokens of real images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustok.generators.compiled import Rows, compiled_batch, memory_of
from robustok.generators.fit import check_labels, whole_labels
from robustok.generators.noise import uniforms
from robustok.generators.protocol import GeneratorLike, Made
from robustok.inference import packed
from robustok.runtime.configs import check_choices
from robustok.shapes import Labels, TokenMask, Tokens

Distribution = Float[Tensor, "b k"]
Schedule: TypeAlias = Literal["constant", "linear", "ramp", "power-cosine"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn from a generator's predictions."""

    makes: ClassVar[Made] = "tokens"
    asks: ClassVar[str] = "predictor"  # the method of a generator that is sampled so
    temperature: float = 1.0  # logits are divided by it
    top_k: int = 0  # draw from the k likeliest codes, and those as likely as the k-th, only; 0: from all
    top_p: float = 1.0  # draw from the likeliest codes that together have this probability; 1: from all
    guidance: float = 1.0  # scale g of classifier-free guidance; 1: none
    schedule: Schedule = "constant"  # how the scale gets from 1 to g
    power: float = 1.0  # of power-cosine: above 1 the scale rises later, below 1 earlier
    guided_steps: int = 0  # only so many predictions are guided, from the first; 0: all

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, which must be above 0; for argmax use top_k=1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; choose a number of codes, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it is a probability above 0, or 1 for all codes")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance is {self.guidance}; choose 1 for none, more for stronger")
        check_choices(self)
        if not 0 <= self.power < math.inf:
            raise ValueError(f"power is {self.power}, which must be 0 or more")
        if self.guided_steps < 0:
            raise ValueError(f"guided_steps is {self.guided_steps}; choose a number of predictions, or 0 for all")


class LabelDraw(NamedTuple):
    """What is random in a training step: whether each image's label is withheld, which guidance needs."""

    withheld: Bool[Tensor, " b"]

    @classmethod
    def of(cls, b: int, label_dropout: float, *, generator: torch.Generator) -> "LabelDraw":
        """Of `b` images, each with probability `label_dropout`."""
        return cls(torch.rand(b, generator=generator, device=generator.device) < label_dropout)


def guidance_scales(config: Sampling, n: int) -> list[float]:
    """The guidance scale at each of n predictions.

    With g the guidance and s/n the share of predictions already made: g itself (constant), 1 + (g - 1) s/n
    (linear), 1 + (g - 1) s/(n - 1) (ramp, which reaches g at the last; Tian et al. 2024, VAR, whose cfg is g - 1),
    or 1 + (g - 1) (1 - cos(pi (s/n)^power)) / 2 (power-cosine; Gao et al. 2023, MDTv2; RAR).
    """

    def rise(s: int) -> float:
        match config.schedule:
            case "constant":
                return 1.0
            case "linear":
                return s / n
            case "ramp":
                return s / max(1, n - 1)
            case "power-cosine":
                return (1 - math.cos(math.pi * (s / n) ** config.power)) / 2

    guided = config.guided_steps or n
    return [1 + (config.guidance - 1) * rise(s) if s < guided else 1.0 for s in range(n)]


def guide(labelled: Distribution, unlabelled: Distribution, scale: float | Tensor) -> Distribution:
    """Logits moved away from those without a label (Ho & Salimans 2022, eq. 6); scale 1 is `labelled`."""
    moved = unlabelled + scale * (labelled - unlabelled)
    return torch.where(scale == 1, labelled, moved) if isinstance(scale, Tensor) else moved  # to the last digit


def probabilities(logits: Distribution, config: Sampling, temperature: Tensor | None = None) -> Distribution:
    """What to draw from: temperature first, then top-k, then top-p; rows sum to 1. `temperature` goes over `config`."""
    logits = logits.float() / (config.temperature if temperature is None else temperature)
    if 0 < config.top_k < logits.shape[1]:
        least = logits.topk(config.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    p = logits.softmax(dim=1)
    if config.top_p < 1:
        sorted_p, codes = p.sort(dim=1, descending=True, stable=True)
        likelier = sorted_p.cumsum(dim=1) - sorted_p  # probability of all codes before this one
        p = torch.zeros_like(p).scatter(1, codes, sorted_p.where(likelier < config.top_p, 0.0))
        p = p / p.sum(dim=1, keepdim=True)
    return p


def draw_codes(p: Distribution, uniform: Float[Tensor, " b"]) -> Tensor:
    """The code at which each row's cumulative probability passes its uniform number in [0, 1)."""
    cumulative = p.double().cumsum(dim=1)
    cumulative = cumulative / cumulative[:, -1:]  # ends in exactly 1, so codes of probability 0 are never drawn
    return torch.searchsorted(cumulative, uniform.contiguous().unsqueeze(1), right=True).squeeze(1)


def draw_next(
    logits: Float[Tensor, "rows m k"],
    uniform: Float[Tensor, "b m"],
    scale: float | Tensor,
    temperature: Tensor | None = None,
    *,
    config: Sampling,
    guided: bool,
) -> tuple[Tokens, Bool[Tensor, ""]]:
    """Tokens (b m), and whether all probabilities were finite; of guided logits the second half is without labels."""
    logits = logits.float().flatten(0, 1)
    if guided:
        labelled, unlabelled = logits.chunk(2)
        logits = guide(labelled, unlabelled, scale)
    p = probabilities(logits, config, temperature)
    return draw_codes(p, uniform.flatten()).clamp(max=p.shape[1] - 1).view(uniform.shape), p.sum().isfinite()


def balanced_labels(count: int, classes: int) -> Labels:
    """Labels of `count` images: all classes in turn, and what is left over spread over all of them.

    So every class comes as often as any other or once more, and of few images the classes are not the first ones.
    """
    turns, rest = divmod(count, classes)
    return torch.cat([torch.arange(classes).repeat(turns), torch.arange(rest) * classes // max(1, rest)])


class Kept(NamedTuple):
    """Tokens of images (b n), and which of them stay."""

    keep: TokenMask
    tokens: Tokens


@torch.no_grad()
def sample_tokens(
    generator: GeneratorLike,
    labels: Labels,
    config: Sampling,
    *,
    seed: int,
    first: int = 0,
    keep: TokenMask | None = None,
    tokens: Tokens | None = None,
    null_class: bool = False,
    batch_size: int = 256,
    compile: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tokens:
    """Tokens of one image per label, on the labels' device.

    Image i is drawn with random numbers that depend on (seed, first + i) alone. Where `keep` is true the
    given `tokens` stay, as context of those drawn later. `progress` is told how many images are done. Labels are below
    `generator.null_class`, which stands for no class; `null_class` lets it be one. Raises ValueError for others.

    `compile` is a backend of `torch.compile`, for many images inductor: the step from token to token is then
    one compiled function, and a CUDA graph there (`robustok.generators.compiled`); None: it runs as it is written.
    Raises ValueError where it cannot be compiled, as for models that predict more than one token at a time.
    """
    scales = guidance_scales(config, len(generator.blocks))
    memory = None if compile is None else memory_of(generator)

    def finish(labels: Labels, uniform: Float[Tensor, "b n"], kept: Kept | None) -> Tokens:
        if compile is None:
            return _sample_batch(generator, labels, config, scales, uniform, kept)
        keep, tokens = kept or (torch.zeros_like(uniform).bool(), torch.zeros_like(uniform).long())
        guided = any(scale != 1 for scale in scales)
        rows = Rows(labels, keep, tokens.long(), uniform)
        drawn = partial(draw_next, config=config, guided=guided)
        found, finite = compiled_batch(generator, rows, scales, config.temperature, drawn, guided, compile)
        check_finite(finite)
        return found.to(labels.dtype)

    how: dict[str, Any] = {"seed": seed, "first": first, "keep": keep, "tokens": tokens, "null_class": null_class}
    how |= {"batch_size": batch_size, "progress": progress, "keep_weight": None if memory is None else memory.keep}
    return sample_in_batches(finish, generator, labels, generator.tokens_per_image, **how)


def sample_in_batches(
    finish: Callable[[Labels, Float[Tensor, "b u"], Kept | None], Tokens],
    generator: GeneratorLike,
    labels: Labels,
    numbers: int,
    *,
    seed: int,
    first: int,
    keep: TokenMask | None,
    tokens: Tokens | None,
    null_class: bool,
    batch_size: int,
    progress: Callable[[int], None] | None,
    keep_weight: Callable[[str, Tensor], Tensor] | None = None,
) -> Tokens:
    """What `finish` makes of labels, so many uniform numbers of each image and what is kept; `sample_tokens` says how.

    Raises ValueError for labels, tokens or a mask of them that do not fit the generator.
    """
    if (keep is None) != (tokens is None):
        raise ValueError("keep and tokens go together; give both or neither")
    n, device = generator.tokens_per_image, generator.device
    labels = whole_labels(labels)  # tokens come in their type: 8 bits would cut those of large codebooks short
    check_labels(generator, labels, null_class=null_class)
    if tokens is not None and tokens.shape != (len(labels), n):
        raise ValueError(f"tokens are {tuple(tokens.shape)}, but {len(labels)} labels of {n} tokens were asked for")
    whole = keep is None or tokens is None or (keep.dtype == torch.bool and not tokens.is_floating_point())
    if keep is not None and tokens is not None and (keep.shape != tokens.shape or not whole):
        raise ValueError(
            f"keep is {tuple(keep.shape)} of {keep.dtype} and tokens are of {tokens.dtype}; give "
            f"{tuple(tokens.shape)} bools, and whole numbers as tokens"
        )
    batches = []
    for start in range(0, len(labels), batch_size):
        part = slice(start, min(start + batch_size, len(labels)))
        uniform = uniforms(seed, range(first + part.start, first + part.stop), numbers).to(device)
        kept = None if keep is None or tokens is None else Kept(keep[part].to(device), tokens[part].long().to(device))
        known = None if kept is None else kept.tokens[kept.keep]
        if known is not None and (unknown := (known < 0) | (known >= generator.codebook_size)).any():
            raise ValueError(
                f"tokens hold code {int(known[unknown][0])}, but the generator knows codes 0 to "
                f"{generator.codebook_size - 1}; give tokens of the tokenizer that it was trained on"
            )
        with packed(generator, keep_weight):
            batch = finish(labels[part].to(device), uniform, kept)
        batches.append(batch.to(labels.device))
        if progress is not None:
            progress(part.stop)
    return torch.cat(batches) if batches else labels.new_empty(0, n)


@torch.no_grad()
def finish_tokens(
    generator: GeneratorLike, labels: Labels, config: Sampling, uniform: Float[Tensor, "b n"], kept: Kept
) -> Tokens:
    """Tokens (b n): what is kept, and the others drawn in order, each by its uniform number in [0, 1)."""
    with packed(generator):
        return _sample_batch(generator, labels, config, guidance_scales(config, len(generator.blocks)), uniform, kept)


def _sample_batch(
    generator: GeneratorLike,
    labels: Labels,
    config: Sampling,
    scales: list[float],
    uniform: Float[Tensor, "b n"],
    kept: Kept | None,
) -> Tokens:
    """Tokens (b n): those of a block that is kept whole are read together with what is drawn next, in one go.

    Where the scale is 1 there is no unlabelled half. Where one begins or ends, all tokens so far are read anew, in one
    go, too.
    """
    both = torch.cat([labels, torch.full_like(labels, generator.null_class)])
    result, whole = labels.new_empty(uniform.shape), _kept_whole(generator.blocks, kept)
    predict, guided, read, start = None, False, 0, 0
    finite = torch.ones((), dtype=torch.bool, device=uniform.device)  # asked once, for asking waits for a GPU
    for scale, size, keep_block in zip(scales, generator.blocks, whole, strict=True):
        block = slice(start, start + size)
        start = block.stop
        if kept is not None and keep_block:
            result[:, block] = kept.tokens[:, block]
            continue
        if predict is None or guided != (scale != 1):
            guided, read = scale != 1, 0
            predict = generator.predictor(both if guided else labels)
        latest = result[:, read : block.start].repeat(2 if guided else 1, 1) if block.start > read else None
        read = block.start
        tokens, all_finite = draw_next(predict(latest), uniform[:, block], scale, config=config, guided=guided)
        finite = finite & all_finite
        if kept is not None:
            tokens = torch.where(kept.keep[:, block], kept.tokens[:, block], tokens)
        result[:, block] = tokens
    check_finite(finite)
    return result


def check_finite(finite: Tensor) -> None:
    """Raises ValueError where not all probabilities of a sample were finite."""
    if not finite:
        raise ValueError("sampling ended in NaN or infinity; use less guidance, a higher temperature, or other weights")


def _kept_whole(blocks: Sequence[int], kept: Kept | None) -> list[bool]:
    """Of each block, whether all images keep all of its tokens."""
    if kept is None:
        return [False] * len(blocks)
    everywhere = kept.keep.all(dim=0).cpu()  # once: asking block by block would wait for a GPU at each
    return [bool(part.all()) for part in everywhere.split(list(blocks))]
