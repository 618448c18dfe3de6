"""VQ: the nearest code of a learnt codebook (van den Oord et al. 2017, arXiv 1711.00937)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.quantizers.quantized import Quantized, straight_through


@dataclass(frozen=True, kw_only=True)
class VQ:
    """Vector quantization with a learnt codebook (van den Oord et al. 2017)."""

    codebook_size: int = 4096  # number of codes, K
    width: int = 64  # width of a code, d
    normalized: bool = True  # latents and codes lie on the unit sphere (arXiv 2110.04627)
    commitment: float = 0.25  # weight of the latents' pull towards their codes
    gradient: Literal["straight-through", "rotation"] = "straight-through"  # how it passes the rounding
    revive_after: int = 100  # training steps without use after which a code is placed anew; 0 = never

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ValueError(f"a codebook has at least 2 codes, not {self.codebook_size}")
        if self.width < 1 or self.commitment < 0 or self.revive_after < 0:
            raise ValueError(
                "a codebook's width is at least 1 and its commitment and revive_after at least 0, "
                f"not {self.width}, {self.commitment} and {self.revive_after}"
            )


def nearest_code(latents: Float[Tensor, "... d"], codebook: Codebook) -> Int[Tensor, "..."]:
    """Index of the codebook entry nearest to each latent; the lower index where two are equally near."""
    # |z - e|^2 without |z|^2, which is the same for every code: one matrix product instead of a difference
    scores = latents @ codebook.T - 0.5 * codebook.square().sum(dim=1)
    return scores.argmax(dim=-1)


def rotate(latents: Latents, codes: Latents) -> Latents:
    """`codes` going forward; backward, the gradient turned and scaled as latents turn into codes.

    The rotation trick (arXiv 2410.06424, eq. 4): codes = s R latents with the scale s and the rotation R,
    the reflections I - 2 r r' + 2 q z', held constant.
    """
    norm_z, norm_q = (x.norm(dim=-1, keepdim=True).clamp_min(1e-6).detach() for x in (latents, codes))
    z, q = (latents / norm_z).detach(), (codes / norm_q).detach()
    r = F.normalize(z + q, dim=-1)

    def along(direction: Tensor) -> Tensor:
        return (latents * direction).sum(dim=-1, keepdim=True)

    return norm_q / norm_z * (latents - 2 * along(r) * r + 2 * along(z) * q)


class VectorQuantizer(nn.Module):
    """The nearest code of a learnt codebook."""

    def __init__(self, config: VQ):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.codebook_size, config.width) / config.width**0.5)

    @property
    def codebook(self) -> Codebook:
        """The codes as the decoder gets them: (k, d), of length 1 if normalized."""
        return F.normalize(self.embedding, dim=-1) if self.config.normalized else self.embedding

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents where they are compared with codes: on the unit sphere if the codebook is."""
        return F.normalize(latents.float(), dim=-1) if self.config.normalized else latents.float()

    def forward(self, latents: Latents) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):  # near codes differ by less than bf16 resolves
            latents, codebook = self.project(latents), self.codebook
            tokens = nearest_code(latents.detach(), codebook.detach())
        codes = F.embedding(tokens, codebook)
        loss = F.mse_loss(codes, latents.detach()) + self.config.commitment * F.mse_loss(latents, codes.detach())
        return Quantized(self.straight_through(latents, codes), tokens, loss)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, with the configured gradient to `latents` (as `project` returns them)."""
        codes = codes.detach()
        return rotate(latents, codes) if self.config.gradient == "rotation" else straight_through(latents, codes)

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens: (b, n, d)."""
        return F.embedding(tokens, self.codebook)

    @torch.no_grad()
    def init_kmeans(self, latents: Float[Tensor, "m d"], *, generator: Generator, rounds: int = 10) -> None:
        """Place the codes by k-means on the latents of some images, at least as many as there are codes."""
        points = self.project(latents)
        k = self.config.codebook_size
        if len(points) < k:
            raise ValueError(
                f"k-means places {k} codes on at least as many latents, not {len(points)}; "
                "start from more images or choose a smaller codebook"
            )

        def draw(count: int) -> Tensor:
            return points[torch.randperm(len(points), generator=generator)[:count].to(points.device)]

        means = draw(k)
        for _ in range(rounds):
            owner = nearest_code(points, means)
            sums = torch.zeros_like(means).index_add_(0, owner, points)
            counts = torch.bincount(owner, minlength=k)
            empty = counts == 0
            means = self.project(sums / counts.clamp_min(1)[:, None])
            means[empty] = draw(int(empty.sum()))
        self.embedding.copy_(means)

    @torch.no_grad()
    def reset_dead_codes(self, dead: Bool[Tensor, " k"], latents: Latents, *, generator: Generator) -> Tensor:
        """Place dead codes on random latents of the step, as many as there are latents; returns which (m)."""
        points = self.project(latents).flatten(0, 1)
        moved = dead.nonzero().flatten()[: len(points)]
        chosen = torch.randperm(len(points), generator=generator)[: len(moved)].to(points.device)
        self.embedding[moved] = points[chosen]
        return moved
