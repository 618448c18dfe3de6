"""Departures of tokens from the real image's: how often, where and how far, by neighbor rank and code distance."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from robustok.evaluation.scores.intervals import Interval, mean_interval
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Tokens

RANKED = 20_000  # departures whose rank and distance are computed, at most; drawn at random from all
TYPICAL = 2_000  # codes that the mean distance of two codes is computed from, at most
CELLS = 2**23  # of a distance matrix in memory at once


@dataclass(frozen=True, kw_only=True)
class Departures:
    """Tokens beside the real ones in the same positions, from position `first` on.

    `alpha` and `delta` say which perturbation departs as often and as far; `within` holds (r, fraction of departures
    that are among the r nearest codes), to be compared with r / (k - 1) for codes picked at random.
    """

    first: int
    alpha: float  # fraction of the tokens that differ
    interval: Interval  # of alpha, 95 %, over images
    by_position: tuple[float, ...]  # alpha at each position
    rank: float | None  # median neighbor rank of a departure: 1 is the nearest other code; None without departures
    delta: int | None  # codes that replacements would be drawn from uniformly, for the same median rank
    within: tuple[tuple[int, float], ...]
    distance: float | None  # mean distance of a departure, over that of two codes of the codebook
    distance_by_position: tuple[float | None, ...]


class Steps(NamedTuple):
    """Distances from one code to another."""

    rank: Int[Tensor, " m"]  # 1 for the nearest other code
    distance: Float64[Tensor, " m"]  # Euclidean


def departures(tokens: Tokens, real: Tokens, codebook: Codebook, *, first: int = 0) -> Departures:
    """`tokens` (b n) beside the `real` ones of the same images. Raises ValueError for other shapes."""
    if tokens.shape != real.shape or not 0 <= first < real.shape[1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} cannot be compared with real ones {tuple(real.shape)} from position {first} "
            "on; give the tokens of the same images and a position before the last"
        )
    tokens, real = tokens.to(codebook.device), real.to(codebook.device)
    differs = (tokens != real)[:, first:]
    per_image, n, k = differs.double().mean(dim=1), differs.shape[1], len(codebook)
    image, position = differs.nonzero(as_tuple=True)
    if len(image) > RANKED:
        order = torch.randperm(len(image), generator=stream(0, "departures", len(image)))[:RANKED].sort().values
        image, position = image[order.to(image.device)], position[order.to(image.device)]
    steps = code_steps(real[image, first + position], tokens[image, first + position], codebook)
    distance, alpha, any_ = steps.distance / typical_distance(codebook), float(per_image.mean()), len(image) > 0
    counts = torch.bincount(position, minlength=n)
    sums = torch.zeros(n, dtype=torch.float64, device=distance.device).index_add_(0, position, distance)
    median = float(steps.rank.double().quantile(0.5)) if any_ else None
    ranks = [*(2**i for i in range((k - 1).bit_length()) if 2**i < k - 1), k - 1]
    return Departures(
        first=first,
        alpha=alpha,
        interval=mean_interval(alpha, per_image),
        by_position=tuple(differs.double().mean(dim=0).tolist()),
        rank=median,
        # ranks 1 to delta, each as likely, have the median (delta + 1) / 2
        delta=None if median is None else round(2 * median - 1),
        within=tuple((r, float((steps.rank <= r).double().mean())) for r in ranks if any_),
        distance=float(distance.mean()) if any_ else None,
        distance_by_position=tuple(float(s) / int(c) if c else None for s, c in zip(sums, counts, strict=True)),
    )


def code_steps(start: Int[Tensor, " m"], end: Int[Tensor, " m"], codebook: Codebook) -> Steps:
    """Rank of each end among the neighbors of its start, and their distance; equally near codes share the best rank.

    Rank r is reached by a perturbation with delta >= r. Compares every start with the whole codebook, some at a time.
    """
    codes = codebook.double()
    squares = codes.square().sum(dim=1)
    ranks, distances = [start.new_empty(0)], [codes.new_empty(0)]
    for a, b in zip(*(t.split(max(1, CELLS // len(codes))) for t in (start, end)), strict=True):
        to_all = (squares - 2 * codes[a] @ codes.T).scatter(1, a[:, None], -torch.inf)  # and the same |start|^2 each
        ranks.append((to_all < to_all.gather(1, b[:, None])).sum(dim=1))  # the start itself is one of those
        distances.append((codes[a] - codes[b]).norm(dim=1))
    return Steps(torch.cat(ranks), torch.cat(distances))


def typical_distance(codebook: Codebook) -> float:
    """Mean Euclidean distance of two different codes, of at most 2,000 evenly spaced over the codebook."""
    k = min(len(codebook), TYPICAL)
    some = codebook[torch.arange(k, device=codebook.device) * len(codebook) // k].double()
    return float(torch.cdist(some, some).sum() / (k * (k - 1)))
