"""Latent perturbation: real tokens disturbed as a generator disturbs them (arXiv 2509.12474, sec. 4.2).

A generator that errs puts a code near the right one in its place. `perturb` imitates that on integers: it
knows neither images nor networks, so main training, pFID and any tokenizer with a codebook share it.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

from robustok.runtime.configs import check_choices, check_least, check_shares
from robustok.shapes import Codebook, Latents, Neighbors, TokenMask, Tokens

# What perturbed images teach encoder and codebook. joint: as much as clean ones. stopped: nothing, only the decoder
# learns from them. frozen: nothing, and no image does any more: in a first phase everything is trained, clean; in a
# second one encoder and codebook stay as they are, and the decoder learns on, perturbed, without annealing.
LatentSpace: TypeAlias = Literal["joint", "stopped", "frozen"]
DISTANCES = 2**24  # between codes that are held at a time: 64 MiB


@dataclass(frozen=True, kw_only=True)
class CodePerturbation:
    """What the paper's perturbation and the released one share: how many codes are replaced, and how that falls."""

    alpha: float = 1.0  # fraction of a chosen image's tokens that are replaced, 0 to 1
    beta: float = 0.1  # fraction of the batch's images that are chosen, 0 to 1; 0 switches perturbation off
    delta: int = 100  # how many nearest codes a replacement is drawn from
    anneal_start: float = 0.2  # fraction of training after which alpha and delta begin to fall
    anneal_end: float = 0.6  # fraction of training after which they stay where they are
    final_fraction: float = 0.5  # what is left of alpha and delta from then on

    def __post_init__(self) -> None:
        check_annealed(self)
        check_least(self, 1, "delta")


@dataclass(frozen=True, kw_only=True)
class Perturbation(CodePerturbation):
    """How hard sampling errors are imitated during main training."""

    latent_space: LatentSpace = "joint"  # trained on perturbed images, too; stopped: not on them; frozen: in two phases
    # frozen: fraction of training that is clean, then the decoder learns alone, perturbed; 0: a given tokenizer's
    freeze_from: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        check_latent_space(self)

    def at(self, progress: float) -> tuple[float, int]:
        """(alpha, delta) once a fraction `progress` of training is done (paper, sec. 4.2).

        Both keep their value, fall linearly to `final_fraction` of it between the two ends, and stay there; on a frozen
        latent space they keep it to the end.
        """
        if self.latent_space == "frozen":
            return self.alpha, self.delta
        left = annealed(progress, self.anneal_start, self.anneal_end, self.final_fraction)
        return left * self.alpha, max(1, round(left * self.delta))


@dataclass(frozen=True, kw_only=True)
class ReleasedPerturbation(CodePerturbation):
    """Perturbation as the authors' released code does it, which is not what the paper says.

    Each token is replaced with probability alpha, of the batch's first int(beta B) images, by one of the delta codes
    nearest to the encoder's output, which the token itself is one of; the semantic term sees the perturbed codes, too.
    """

    alpha: float = 1.0  # probability with which a token of a chosen image is replaced, 0 to 1
    beta: float = 0.1  # fraction of the batch's images, the first ones, that are chosen; 0 switches perturbation off
    latent_space: ClassVar[LatentSpace] = "joint"  # encoder and codebook are trained on perturbed images, too

    def at(self, progress: float) -> tuple[float, int]:
        """(alpha, delta) once a fraction `progress` of training is done.

        They fall by `final_fraction`, not to it, which is the same at one half only; elsewhere they jump at the end of
        the annealing. What is left of delta is rounded down.
        """
        left = annealed(progress, self.anneal_start, self.anneal_end, self.final_fraction)
        if self.anneal_start <= progress < self.anneal_end:
            left = 1 - self.final_fraction * (progress - self.anneal_start) / (self.anneal_end - self.anneal_start)
        return left * self.alpha, max(1, math.floor(left * self.delta + 1e-9))


def annealed(progress: float, start: float, end: float, final_fraction: float) -> float:
    """What is left of a value: all before `start`, `final_fraction` from `end` on, linearly falling in between."""
    if progress < start:
        return 1.0
    if progress >= end:
        return final_fraction
    return 1 - (progress - start) / (end - start) * (1 - final_fraction)


def check_annealed(config: Any) -> None:
    """Raises ValueError for shares of a perturbation that are none, and for an annealing that ends before it starts."""
    check_shares(config, "alpha", "beta", "anneal_start", "anneal_end", "final_fraction")
    if config.anneal_end < config.anneal_start:
        raise ValueError(
            f"annealing ends at {config.anneal_end}, before it starts at {config.anneal_start}; swap the two"
        )


def check_latent_space(config: Any) -> None:
    """Raises ValueError for a choice that there is not, and for a second phase that never begins."""
    check_choices(config)
    if not 0 <= config.freeze_from < 1:
        raise ValueError(
            f"perturbation freeze_from is {config.freeze_from}, which leaves the second phase without a step; choose a "
            "fraction below 1, for example 0.75, or 0 for a finished tokenizer, whose decoder learns alone"
        )


def second_phase(perturbation: Any, steps: int) -> int:
    """The step of `steps` with which the second phase begins; `steps` itself where the latent space is not frozen."""
    frozen = perturbation.latent_space == "frozen"
    return math.ceil(perturbation.freeze_from * steps - 1e-9) if frozen else steps


def neighbors(codebook: Codebook, delta: int, books: int = 1) -> Neighbors:
    """For each code the `delta` others nearest to it in Euclidean distance, the nearest first: (k, delta).

    Of several codebooks of equal size, one below the other, each code has its neighbors in its own. Distances are held
    for some codes at a time: 2^18 codes against each other would be 256 GiB.
    """
    if books > 1:
        parts = codebook.chunk(books)
        return torch.cat([book * len(part) + neighbors(part, delta) for book, part in enumerate(parts)])
    k = len(codebook)
    if not 1 <= delta < k:
        raise ValueError(f"delta = {delta} neighbors were asked for; a code among {k} has 1 to {k - 1} of them")
    codebook = codebook.detach().float()
    table = torch.empty(k, delta, dtype=torch.int64, device=codebook.device)
    rows = max(1, DISTANCES // k)
    for first in range(0, k, rows):
        distances = torch.cdist(codebook[first : first + rows], codebook)
        distances[:, first:].fill_diagonal_(torch.inf)  # a code is not its own neighbor
        table[first : first + rows] = distances.topk(delta, largest=False, sorted=True).indices
    return table


class Draw(NamedTuple):
    """Which tokens are replaced, and by which of their neighbors: drawn before any token is known."""

    chosen: TokenMask  # (b, n)
    rank: Tensor  # (b, n), column of the neighbor table; where a pilot draws, the uniform number that it draws by


def draw_replacements(b: int, n: int, delta: int, alpha: float, beta: float, *, generator: Generator) -> Draw:
    """Images and tokens as `chosen_tokens` draws them; every token gets a rank in [0, delta), uniformly."""
    chosen = chosen_tokens(b, n, alpha, beta, generator=generator)
    rank = torch.rand(b, n, generator=generator, device=generator.device)
    return Draw(chosen, (rank * delta).long())


def chosen_tokens(b: int, n: int, alpha: float, beta: float, *, generator: Generator) -> TokenMask:
    """Exactly round(beta b) images and in each exactly round(alpha n) tokens, drawn without replacement: (b, n).

    Where that rounds to none, one is drawn with probability beta b (an image's token with alpha n), so that the
    expectation is kept: a batch of 4 at beta 0.1 has one image in 40 % of the steps, not none for ever.
    """
    for name, fraction in (("alpha", alpha), ("beta", beta)):
        if not 0 <= fraction <= 1:
            raise ValueError(f"perturbation {name} is a fraction from 0 to 1, not {fraction}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def drawn(fraction: float, of: int, times: int) -> int | Tensor:
        """How many of so many, each of the `times`."""
        rounded, expected = round(fraction * of), fraction * of
        return uniform(times, 1) < expected if expected > 0 and not rounded else rounded

    images = uniform(b, 1).argsort(0).argsort(0) < drawn(beta, b, 1)  # ranks of random numbers: a draw
    places = uniform(b, n).argsort(1).argsort(1) < drawn(alpha, n, b)  # without replacement
    return images & places


def replace_tokens(tokens: Tokens, near: Neighbors, draw: Draw) -> Tokens:
    """The drawn tokens replaced by the neighbors drawn for them."""
    return torch.where(draw.chosen, near[tokens, draw.rank], tokens)


def perturb(tokens: Tokens, near: Neighbors, alpha: float, beta: float, *, generator: Generator) -> Tokens:
    """Tokens with some replaced by codes near them, as a generator errs (paper, sec. 4.2).

    Exactly round(beta b) images, and in each exactly round(alpha n) tokens, drawn at random (`chosen_tokens`); each
    replacement is drawn uniformly from the code's row of `near`, which leaves the code itself out, so that every
    drawn token changes.
    """
    b, n = tokens.shape
    drawn = draw_replacements(b, n, near.shape[1], alpha, beta, generator=generator)
    return replace_tokens(tokens, near, Draw(drawn.chosen.to(tokens.device), drawn.rank.to(tokens.device)))


def draw_as_released(b: int, n: int, delta: int, alpha: float, beta: float, *, generator: Generator) -> Draw:
    """What the released code draws: the first int(b beta) images, each token with probability alpha.

    That is no image where b beta is below 1. Raises ValueError there, unless beta is 0.
    """
    if beta > 0 and int(b * beta) == 0:
        raise ValueError(
            f"the released code perturbs the first int({b} x {beta}) = 0 images of a batch, so none ever; take a batch "
            f"of {math.ceil(1 / beta)} or more, a larger beta, beta 0, or Perturbation instead of ReleasedPerturbation"
        )
    uniform = torch.rand(b, n, generator=generator, device=generator.device)
    first = torch.arange(b, device=generator.device)[:, None] < int(b * beta)
    rank = torch.randint(delta, (b, n), generator=generator, device=generator.device)
    return Draw(first & (uniform <= alpha), rank)


def replace_as_released(latents: Latents, tokens: Tokens, codebook: Codebook, delta: int, draw: Draw) -> Tokens:
    """The drawn tokens replaced as released: codes are ranked by distance to the encoder's output.

    Rank 0 is thus the token itself, and one drawn token in `delta` does not change. It searches the codebook
    anew in every step. `latents` are (b, n, d) where the quantizer compares them with codes.
    """
    if not draw.chosen.any():
        return tokens
    near = torch.cdist(latents.float(), codebook.float()).topk(delta, largest=False, sorted=True).indices
    return torch.where(draw.chosen, near.gather(2, draw.rank[:, :, None])[:, :, 0], tokens)


class NeighborTable:
    """The neighbors of a codebook that is being trained, computed anew only once the codebook has moved.

    A table lookup replaces the search in every step. The table is rebuilt when some code has moved by more
    than `tolerance` of the mean distance to the furthest neighbor kept, since it was built. Its state is the
    codebook that it was built from, so that a resumed run has the same table as an uninterrupted one.
    """

    def __init__(self, tolerance: float = 0.05, books: int = 1):
        self.tolerance, self.books = tolerance, books
        self.rebuilt = 0  # how many times, for benchmarks and tests
        self._built_from: Tensor | None = None
        self._width = 0  # neighbors of each code
        self._table: Tensor | None = None  # None until it is asked for: only then is the codebook's device known
        self._reach = 0.0

    def __call__(self, codebook: Codebook, delta: int) -> Neighbors:
        """(k, delta) neighbors on the codebook's device; a table built for a larger delta serves a smaller one."""
        codebook = codebook.detach()
        if self._built_from is not None and (self._table is None or self._table.device != codebook.device):
            self._build(self._built_from.to(codebook.device), self._width)
        if self._table is None or self._width < delta or self._moved(codebook):
            self._build(codebook, max(delta, self._width))
        assert self._table is not None
        return self._table[:, :delta]

    def _moved(self, codebook: Codebook) -> bool:
        assert self._built_from is not None
        return bool((codebook - self._built_from).norm(dim=1).max() > self.tolerance * self._reach)

    def _build(self, codebook: Codebook, delta: int) -> None:
        self._built_from, self._width = codebook.clone(), delta
        self._table = neighbors(codebook, delta, self.books)
        self._reach = float((codebook - codebook[self._table[:, -1]]).norm(dim=1).mean())
        self.rebuilt += 1

    def state_dict(self) -> dict[str, object]:
        return {"built_from": self._built_from, "delta": self._width}

    def load_state_dict(self, state: dict[str, object]) -> None:
        built_from, delta = state["built_from"], state["delta"]
        assert isinstance(built_from, Tensor | None)
        assert isinstance(delta, int)
        self._table, self._built_from, self._width = None, built_from, delta
