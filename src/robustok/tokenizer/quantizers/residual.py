"""Residual VQ: each level codes what those before it have left over.

SoundStream (Zeghidour et al. 2021, arXiv 2107.03312, algorithm 1) has a codebook for each level, RQ-VAE (Lee et al.
2022, arXiv 2203.01941), which is of images, shares one among all levels.

An image of n latents has n tokens of each level, all of the first level first, coarse to fine: one axis of tokens, as
generators, caches, pairs and scores take it. With a codebook for each level, tokens of level i are numbered from i K
on, so that a token tells its level.

vector-quantize-pytorch 1.32 gives the same tokens, codes, losses of each level and, with a codebook for each, the same
averages in every step; with a shared one it averages after each level, here after all. Its codes pass the decoder's
gradient on once for each level, which makes it so many times larger; here it is itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from robustok.shapes import Latents, Tokens
from robustok.tokenizer.quantizers.learned import LearnedCodes, check_codebook, kmeans, nearest_code
from robustok.tokenizer.quantizers.quantized import Quantized, straight_through


@dataclass(frozen=True, kw_only=True)
class ResidualVQ:
    """Residual vector quantization (arXiv 2203.01941, 2107.03312): a latent is the sum of a code of each level."""

    codebook_size: int = 1024  # number of codes, K, of each codebook
    width: int = 64  # width of a code, d
    levels: int = 4  # codes that are added up for a latent; there are so many times more tokens than latents
    shared: bool = True  # one codebook for all levels (RQ-VAE); else each has its own (SoundStream)
    commitment: float = 0.25  # weight of the latents' pull towards the codes so far
    decay: float = 0.0  # of averages that the codes follow, in a step, for example 0.99; 0: they learn by gradients
    revive_after: int = 100  # training steps without use after which a code is placed anew; 0 = never
    deciding: ClassVar[tuple[str, ...]] = ("levels", "shared")  # fields that decide the tokens and that no weight tells

    def __post_init__(self) -> None:
        check_codebook(self)
        if self.levels < 1 or not 0 <= self.decay < 1:
            raise ValueError(
                f"levels is {self.levels} and decay {self.decay}; give 1 level or more, and a decay of 0 to below 1"
            )

    def tokens_per_level(self, latents: int) -> tuple[int, ...]:
        """Tokens of each level, for an image of so many latents."""
        return (latents,) * self.levels


class Residual(LearnedCodes):
    """A latent as a sum over levels; a level may have another size than the whole, to which it is shrunk and spread."""

    levels: int
    commitment: float
    alone = True  # each level's codes learn from what it has left over, and not from what those after it have

    def whole(self, latents: Latents) -> Tensor:
        """Latents (b n d) as levels shrink and spread them."""
        return latents

    def sequence(self, whole: Tensor) -> Latents:
        """The inverse of `whole`."""
        return whole

    def shrink(self, whole: Tensor, level: int) -> Tensor:
        """The whole at the size of a level, in `whole`'s layout."""
        return whole

    def spread(self, tokens: Tokens, level: int) -> Tensor:
        """What the tokens of one level add to the whole."""
        return F.embedding(tokens, self.embedding)

    def split(self, tokens: Tokens) -> Sequence[Tensor]:
        """The tokens of each level. Raises ValueError for a number of tokens that levels cannot have."""
        if tokens.shape[1] % self.levels:
            raise ValueError(
                f"{tokens.shape[1]} tokens are not those of {self.levels} levels of equal size; pass the tokens of all "
                "levels, coarse to fine"
            )
        return tokens.chunk(self.levels, dim=1)

    def sums(self, tokens: Tokens) -> Iterator[Tensor]:
        """The whole after each level; the last is all of it."""
        parts = [self.spread(part, level) for level, part in enumerate(self.split(tokens))]
        total = torch.zeros_like(parts[0])
        for part in parts:
            total = total + part
            yield total

    def lookup(self, tokens: Tokens) -> Float[Tensor, "b latents d"]:
        """The sum of the codes of all levels."""
        *_, whole = self.sums(tokens)
        return self.sequence(whole)

    def forward(self, latents: Latents) -> Quantized:
        """Codes of what each level leaves over, summed. The loss is the mean over levels of codebook loss + commitment
        loss of the sum so far (arXiv 2203.01941 adds them up, its code takes the mean)."""
        with torch.autocast(latents.device.type, enabled=False):  # near codes differ by less than bf16 resolves
            whole = self.whole(latents.float())
            total, loss, tokens = torch.zeros_like(whole), whole.new_zeros(()), []
            for level in range(self.levels):
                tokens.append(self._nearest(self.shrink((whole - total).detach(), level), level))
                total = (total.detach() if self.alone else total) + self.spread(tokens[-1], level)
                if self.averages is None:
                    loss = loss + F.mse_loss(total, whole.detach())
                loss = loss + self.commitment * F.mse_loss(total.detach(), whole)
            codes = self.straight_through(latents.float(), self.sequence(total))
        return Quantized(codes, torch.cat(tokens, dim=1), loss / self.levels)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, the gradient to the latents."""
        return straight_through(latents, codes)

    @torch.no_grad()
    def points(self, latents: Latents) -> Float[Tensor, "b tokens d"]:
        """What each level has left to code, in the order of the tokens."""
        whole, points = self.whole(latents.float()), []
        total = torch.zeros_like(whole)
        for level in range(self.levels):
            left = self.shrink(whole - total, level)
            points.append(self.sequence(left))
            total = total + self.spread(self._nearest(left, level), level)
        return torch.cat(points, dim=1)

    @torch.no_grad()
    def init_kmeans(
        self, latents: Latents, *, generator: Generator, rounds: int = 10, per_code: int | None = None
    ) -> None:
        """Place codes by k-means of what each level has left over, level after level.

        Levels that share a codebook get as large a part of it, one after another, as they have of the tokens.
        """
        how: dict[str, Any] = {"generator": generator, "rounds": rounds, "per_code": per_code}
        whole = self.whole(latents.float())
        total, blocks = torch.zeros_like(whole), self.config.tokens_per_level(latents.shape[1])
        for level in range(self.levels):
            first, last = (len(self.embedding) * sum(blocks[:end]) // sum(blocks) for end in (level, level + 1))
            if first == last:
                continue
            left = self.sequence(self.shrink(whole - total, level))
            self._put(slice(first, last), kmeans(left.flatten(0, 1), last - first, self.project, **how))
            total = total + self.spread(first + nearest_code(left, self.embedding[first:last]), level)

    def _nearest(self, left: Tensor, level: int) -> Tokens:
        """Tokens of what a level has left to code, by its codebook."""
        book = level % self.books
        codes = self.embedding.detach().chunk(self.books)[book]
        return book * len(codes) + nearest_code(self.sequence(left), codes)


class ResidualQuantizer(Residual):
    """A code of each level for every latent, added up."""

    def __init__(self, config: ResidualVQ):
        books = 1 if config.shared else config.levels
        super().__init__(config.codebook_size, config.width, books=books, decay=config.decay)
        self.config: Any = config
        self.levels, self.commitment = config.levels, config.commitment
