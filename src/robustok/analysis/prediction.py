"""A generator's tokens beside real images': under teacher forcing, and left alone from some token on."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.analysis.departures import Departures, departures
from robustok.evaluation.features.image_source import Progress
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.generate import sample
from robustok.generators.noise import uniforms
from robustok.generators.protocol import GeneratorLike, Logits
from robustok.generators.sampling import Sampling, draw_codes, guidance_scales
from robustok.generators.unmasking import MaskedSampling, drawn_from, masked_after, tempered
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Codebook, Labels, Tokens

LOGITS = 2**24  # in memory at once
TOP = (1, 5, 10, 50, 100)


@dataclass(frozen=True, kw_only=True)
class Forced:
    """A generator that is given the real tokens before each one it predicts; a masked one those of earlier steps.

    Probability and rank are those of the real token after guidance and temperature, before top-k and top-p cut, without
    noise.
    """

    sampled: Departures  # of a token drawn as in sampling
    likeliest: Departures  # of the likeliest token
    perplexity: float  # exp(mean of -log probability)
    probability: float  # mean
    probability_by_position: tuple[float, ...]
    rank: float  # median; 1 where the real token is the likeliest
    top: dict[int, float]  # r: fraction of the real tokens among the r likeliest
    step: tuple[int, ...]  # of each position: the prediction step that makes it


def teacher_forcing(
    generator: GeneratorLike,
    tokens: Tokens,
    labels: Labels,
    codebook: Codebook,
    sampling: Sampling,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> tuple[Forced, Tokens]:
    """Predictions from real prefixes, and the tokens drawn from them, each in a real context."""
    n, k, step = tokens.shape[1], len(codebook), _steps(generator, sampling)
    rows = max(1, LOGITS // (n * k))
    drawn, likeliest, rank = (torch.empty_like(tokens) for _ in range(3))
    log_p = torch.empty(tokens.shape, dtype=torch.float64)
    progress(0, len(tokens))
    for start in range(0, len(tokens), rows):
        batch = slice(start, min(start + rows, len(tokens)))
        uniform = uniforms(derive(seed, "analysis, forced"), range(batch.start, batch.stop), n).to(generator.device)
        real = tokens[batch].to(generator.device)
        for at, logits in forced_logits(generator, real, labels[batch].to(generator.device), sampling):
            flat, true, size = logits.flatten(0, 1), real[:, at].flatten()[:, None], logits.shape[:2]
            log_softmax = (flat / sampling.temperature).log_softmax(1)
            log_p[batch, at] = log_softmax.gather(1, true).double().view(size).cpu()
            now = step[0] if isinstance(at, slice) else step[int(at[0])]  # asked of masked generators' alone
            chosen = draw_codes(drawn_from(flat, sampling, now)[0], uniform[:, at].flatten())
            drawn[batch, at] = chosen.view(size).to(tokens.device)
            likeliest[batch, at] = flat.argmax(1).view(size).to(tokens.device)
            rank[batch, at] = ((flat > flat.gather(1, true)).sum(1) + 1).view(size).to(tokens.device)
        progress(batch.stop, len(tokens))
    forced = Forced(
        sampled=departures(drawn, tokens, codebook),
        likeliest=departures(likeliest, tokens, codebook),
        perplexity=float((-log_p.mean()).exp()),
        probability=float(log_p.exp().mean()),
        probability_by_position=tuple(log_p.exp().mean(dim=0).tolist()),
        rank=float(rank.flatten().double().median()),
        top={r: float((rank <= r).double().mean()) for r in TOP if r < k},
        step=tuple(step),
    )
    return forced, drawn


@torch.no_grad()
def forced_logits(
    generator: GeneratorLike, tokens: Tokens, labels: Labels, sampling: Sampling
) -> Iterator[tuple[slice | Tensor, Logits]]:
    """Guided logits of every token given the real ones before it, as (positions, logits of those positions).

    Our own model predicts all positions in one pass, others block by block as in sampling. A masked generator is given
    the tokens of earlier steps, as many as sampling has by then, at places drawn at random, the same in all images.
    """
    steps = sampling.steps if isinstance(sampling, MaskedSampling) else len(generator.blocks)
    scales = torch.tensor(guidance_scales(sampling, steps), device=tokens.device)
    guided = bool((scales != 1).any())
    asked = torch.cat([labels, torch.full_like(labels, generator.null_class)]) if guided else labels

    def twice(given: Tensor) -> Tensor:
        return given.repeat(2, 1) if guided else given

    def combined(logits: Tensor, scale: Float[Tensor, " m"]) -> Logits:
        """`guide`, with a scale for each position."""
        if not guided:
            return logits.float()
        labeled, unlabeled = logits.float().chunk(2)
        return unlabeled + scale[:, None] * (labeled - unlabeled)

    if isinstance(sampling, MaskedSampling):
        step = torch.tensor(_steps(generator, sampling), device=tokens.device)
        for number in step.unique().tolist():
            given, at = tokens.masked_fill(step >= number, generator.codebook_size), (step == number).nonzero()[:, 0]
            logits = generator.predict_masked(twice(given), asked)[:, at]
            yield at, tempered(combined(logits, scales[number].expand(len(at))), sampling, number)
        return
    if isinstance(generator, AutoregressiveModel):
        yield slice(0, tokens.shape[1]), combined(generator(twice(tokens), asked), scales)
        return
    predict, latest, start = generator.predictor(asked), None, 0
    for size, scale in zip(generator.blocks, scales, strict=True):
        at = slice(start, start + size)
        yield at, combined(predict(latest), scale.expand(size))
        latest, start = twice(tokens[:, at]), at.stop


def _steps(generator: GeneratorLike, sampling: Sampling) -> list[int]:
    """Of each position, the prediction that makes it; a masked generator's positions are made in an order at random."""
    if not isinstance(sampling, MaskedSampling):
        return torch.repeat_interleave(torch.tensor(generator.blocks)).tolist()
    n = generator.tokens_per_image
    after = masked_after(n, sampling.steps, sampling.mask_schedule)
    made = torch.tensor([before - left for before, left in pairwise([n, *after])])
    order = torch.randperm(n, generator=stream(0, "analysis, order of masks"))
    return torch.empty(n, dtype=torch.long).scatter(0, order, torch.repeat_interleave(made)).tolist()


def free_running(
    generator: GeneratorLike,
    tokens: Tokens,
    labels: Labels,
    codebook: Codebook,
    sampling: Sampling,
    prefixes: tuple[int, ...],
    *,
    seed: int = 0,
    batch_size: int = 250,
    progress: Progress = lambda done, total: None,
) -> tuple[tuple[Departures, ...], Tokens]:
    """Departures from the real image after each number of real tokens, and the tokens drawn from labels alone.

    The random numbers of an image are the same for every prefix.
    """
    if 0 not in prefixes:
        raise ValueError(f"prefixes {prefixes} leave out 0, which is what the generator makes of a label alone; add it")
    count, drawn = len(tokens), {}
    progress(0, len(prefixes) * count)
    for number, first in enumerate(prefixes):

        def told(done: int, before: int = number * count) -> None:
            progress(before + done, len(prefixes) * count)

        drawn[first] = sample(
            generator,
            labels,
            sampling,
            seed=derive(seed, "analysis, free"),
            null_class=True,
            keep=(torch.arange(tokens.shape[1], device=tokens.device) < first).expand(tokens.shape),
            start=tokens,
            batch_size=batch_size,
            progress=told,
        )
    return tuple(departures(free, tokens, codebook, first=first) for first, free in drawn.items()), drawn[0]
