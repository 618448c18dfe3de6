"""What a generator makes of real images: under teacher forcing, and left alone from some token on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.analysis.departures import Departures, departures
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.noise import uniforms
from robustok.generators.protocol import GeneratorLike, Logits
from robustok.generators.sampling import Sampling, draw, guidance_scales, probabilities, sample_tokens
from robustok.runtime.seeding import derive
from robustok.shapes import Codebook, Labels, Tokens

LOGITS = 2**24  # in memory at once
TOP = (1, 5, 10, 50, 100)

Progress = Callable[[int, int], None]  # told how many images are done, and of how many


@dataclass(frozen=True, kw_only=True)
class Forced:
    """A generator that is given the real tokens before each one it predicts.

    Probability and rank are those of the real token after guidance and temperature, before top-k and top-p cut.
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
    progress: Progress | None = None,
) -> tuple[Forced, Tokens]:
    """What the generator predicts from real prefixes, and the tokens it drew, each in a real context."""
    n, k = tokens.shape[1], len(codebook)
    rows = max(1, LOGITS // (n * k))
    drawn, likeliest = torch.empty_like(tokens), torch.empty_like(tokens)
    log_p, rank = torch.empty(tokens.shape, dtype=torch.float64), torch.empty_like(tokens)
    tell = progress or (lambda done, total: None)
    tell(0, len(tokens))
    for start in range(0, len(tokens), rows):
        batch = slice(start, min(start + rows, len(tokens)))
        uniform = uniforms(derive(seed, "analysis, forced"), range(batch.start, batch.stop), n).to(generator.device)
        real = tokens[batch].to(generator.device)
        for places, logits in forced_logits(generator, real, labels[batch].to(generator.device), sampling):
            flat, true = logits.flatten(0, 1), real[:, places].flatten()[:, None]
            size = logits.shape[:2]
            chosen = draw(probabilities(flat, sampling), uniform[:, places].flatten())
            own = flat.gather(1, true)
            log_p[batch, places] = (
                (flat / sampling.temperature).log_softmax(1).gather(1, true).double().view(size).cpu()
            )
            drawn[batch, places] = chosen.view(size).to(tokens.device)
            likeliest[batch, places] = flat.argmax(1).view(size).to(tokens.device)
            rank[batch, places] = ((flat > own).sum(1) + 1).view(size).to(tokens.device)
        tell(batch.stop, len(tokens))
    step = torch.repeat_interleave(torch.tensor(generator.blocks))
    forced = Forced(
        sampled=departures(drawn, tokens, codebook),
        likeliest=departures(likeliest, tokens, codebook),
        perplexity=float((-log_p.mean()).exp()),
        probability=float(log_p.exp().mean()),
        probability_by_position=tuple(log_p.exp().mean(dim=0).tolist()),
        rank=float(rank.flatten().double().median()),
        top={r: float((rank <= r).double().mean()) for r in TOP if r < k},
        step=tuple(step.tolist()),
    )
    return forced, drawn


@torch.no_grad()
def forced_logits(
    generator: GeneratorLike, tokens: Tokens, labels: Labels, sampling: Sampling
) -> Iterator[tuple[slice, Logits]]:
    """Guided logits of every token given the real ones before it, as (places, logits of those places).

    Our own model predicts all places in one pass, others block by block as in sampling.
    """
    scales = torch.tensor(guidance_scales(sampling, len(generator.blocks)), device=tokens.device)
    guided = bool((scales != 1).any())
    asked = torch.cat([labels, torch.full_like(labels, generator.no_label)]) if guided else labels

    def twice(given: Tensor) -> Tensor:
        return given.repeat(2, 1) if guided else given

    def combined(logits: Tensor, scale: Float[Tensor, " m"]) -> Logits:
        """`guide`, with a scale for each place."""
        if not guided:
            return logits.float()
        labelled, unlabelled = logits.float().chunk(2)
        return unlabelled + scale[:, None] * (labelled - unlabelled)

    if isinstance(generator, AutoregressiveModel):
        yield slice(0, tokens.shape[1]), combined(generator(twice(tokens), asked), scales)
        return
    predict, latest, start = generator.predictor(asked), None, 0
    for size, scale in zip(generator.blocks, scales, strict=True):
        places = slice(start, start + size)
        yield places, combined(predict(latest), scale.expand(size))
        latest, start = twice(tokens[:, places]), places.stop


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
    progress: Progress | None = None,
) -> tuple[list[Departures], Tokens]:
    """Departures from the real image after each number of real tokens, and the tokens drawn from labels alone.

    The random numbers of an image are the same for every prefix.
    """
    found, free = [], None
    places = torch.arange(tokens.shape[1], device=tokens.device)
    tell, count = progress or (lambda done, total: None), len(tokens)
    tell(0, len(prefixes) * count)
    for number, first in enumerate(prefixes):

        def told(done: int, before: int = number * count) -> None:
            tell(before + done, len(prefixes) * count)

        drawn = sample_tokens(
            generator,
            labels,
            sampling,
            seed=derive(seed, "analysis, free"),
            no_label=True,
            keep=(places < first).expand(tokens.shape),
            tokens=tokens,
            batch_size=batch_size,
            progress=told,
        )
        found.append(departures(drawn, tokens, codebook, first=first))
        free = drawn if first == 0 else free
    if free is None:
        raise ValueError(f"prefixes {prefixes} leave out 0, which is what the generator makes of a label alone; add it")
    return found, free
