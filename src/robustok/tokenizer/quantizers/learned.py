"""Codes that are learned: where they begin, how idle ones come into use again, how they follow their latents."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from robustok.runtime.configs import check_least
from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.quantizers.moving_average import ClusterAverages


def check_codebook(config: Any) -> None:
    """Raises ValueError for what no codebook can be."""
    check_least(config, 2, "codebook_size")
    check_least(config, 1, "width")
    check_least(config, 0, "commitment", "revive_after")


def nearest_code(latents: Float[Tensor, "... d"], codebook: Codebook) -> Int[Tensor, "..."]:
    """Index of the codebook entry nearest to each latent; the lower index where two are equally near."""
    # |z - e|^2 without |z|^2, which is the same for every code: one matrix product instead of a difference
    scores = latents @ codebook.T - 0.5 * codebook.square().sum(dim=1)
    return scores.argmax(dim=-1)


def kmeans(
    points: Float[Tensor, "m d"],
    k: int,
    place: Callable[[Tensor], Tensor],
    *,
    generator: Generator,
    rounds: int = 10,
    per_code: int | None = None,
) -> Codebook:
    """The means of k clusters of points, each put in its `place` (a sphere, say) after every round.

    Of at most `per_code` points for each code, drawn at random. Raises ValueError for less points than codes.
    """
    if len(points) < k:
        raise ValueError(
            f"k-means places {k} codes on at least as many latents, not {len(points)}; "
            "start from more images or choose a smaller codebook"
        )

    def draw(count: int) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:count].to(points.device)]

    if per_code is not None:
        points = draw(per_code * k)
    means = draw(k)
    for _ in range(rounds):
        owner = nearest_code(points, means)
        sums = torch.zeros_like(means).index_add_(0, owner, points)
        counts = torch.bincount(owner, minlength=k)
        empty = counts == 0
        means = place(sums / counts.clamp_min(1)[:, None])
        means[empty] = draw(int(empty.sum()))
    return means


class LearnedCodes(nn.Module):
    """The codes themselves, and what tends them; `points` says of a quantizer what each token is the code of.

    They learn by gradients, or with a `decay` follow averages of their latents. Where there are several codebooks of
    equal size, `books`, they lie one below the other, and so do an image's tokens, the first book's first.
    """

    config: Any

    def __init__(self, codes: int, width: int, *, books: int = 1, decay: float = 0.0):
        super().__init__()
        self.books = books
        self.embedding = nn.Parameter(torch.randn(books * codes, width) / width**0.5)
        self.averages = ClusterAverages(self.embedding, books, decay) if decay else None

    @property
    def codebook(self) -> Codebook:
        """The codes as the decoder gets them: (k, d)."""
        return self.embedding

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents where they are compared with codes."""
        return latents.float()

    def points(self, latents: Latents) -> Float[Tensor, "b tokens d"]:
        """What each token of these latents is the nearest code of."""
        return self.project(latents)

    @torch.no_grad()
    def init_kmeans(
        self, latents: Latents, *, generator: Generator, rounds: int = 10, per_code: int | None = None
    ) -> None:
        """Place the codes by k-means on the latents of some images, which have at least as many tokens as codes."""
        points = self.points(latents).flatten(0, 1)
        means = kmeans(points, len(self.embedding), self.project, generator=generator, rounds=rounds, per_code=per_code)
        self._put(slice(None), means)

    @torch.no_grad()
    def reset_dead_codes(self, dead: Bool[Tensor, " k"], latents: Latents, *, generator: Generator) -> Tensor:
        """Place dead codes on random latents of the step, as many as there are latents; returns which (m)."""
        moved = []
        for book, (own, points) in enumerate(
            zip(dead.chunk(self.books), self.points(latents).chunk(self.books, dim=1), strict=True)
        ):
            points = points.flatten(0, 1)
            codes = own.nonzero().flatten()[: len(points)]
            chosen = torch.randperm(len(points), generator=generator)[: len(codes)].to(points.device)
            moved.append(book * len(own) + codes)
            self._put(moved[-1], points[chosen])
        return torch.cat(moved)

    @torch.no_grad()
    def clusters(
        self, tokens: Tokens, latents: Float[Tensor, "b _ d"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
        """How many tokens each code has, and the sum of what they are the code of: of parts of a batch they add up."""
        points, owner = self.points(latents).flatten(0, 1), tokens.flatten()
        counts = torch.bincount(owner, minlength=len(self.embedding)).to(points.dtype)
        return counts, torch.zeros_like(self.embedding).index_add_(0, owner, points)

    @torch.no_grad()
    def follow(self, counts: Float[Tensor, " k"], sums: Float[Tensor, "k d"]) -> None:
        """Move the codes as a step's `clusters` move their averages; once a step, of the whole batch."""
        assert self.averages is not None, "these codes learn by gradients"
        self.embedding.copy_(self.project(self.averages.update(counts, sums)))

    def align(self) -> None:
        """Let averages be of the codes as they are: averaged weights, say, have codes between those of many steps."""
        if self.averages is not None:
            self.averages.align(self.embedding.detach())

    def _put(self, which: Tensor | slice, points: Tensor) -> None:
        self.embedding[which] = points
        if self.averages is not None:
            self.averages.begin(which, points)
