"""Perturbation of continuous latents: real latents disturbed as a generator without a codebook disturbs them.

The sibling of `robustok.tokenizer.perturbation`, with the same rate alpha, proportion beta, strength and annealing. A
diffusion model errs in two ways: it leaves noise behind (`interpolate_noise`; Yang et al. 2025, l-DeTok, arXiv
2507.15856, eq. 2; `AddedNoise` takes nothing of the latent away), and it lands between things that are alike
(`mix_neighbors`; the midpoints of iFID, Xu et al. 2026, arXiv 2603.05630). All leave the mean and the scale of the
latents out of the question: noise is around each channel's own mean and in units of its own standard deviation, as a
generator of standardized latents meets it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from robustok.runtime.configs import check_least, check_shares
from robustok.shapes import Latents, TokenMask
from robustok.tokenizer.perturbation import LatentSpace, annealed, check_annealed, check_latent_space, chosen_tokens

BANK = 2**14  # latents at most among which neighbors are looked for
DISTANCES = 2**24  # held at a time: 64 MiB


@dataclass(frozen=True, kw_only=True)
class LatentPerturbation:
    """What the kinds of perturbation share: which latents are disturbed, and how that falls while training goes on."""

    alpha: float = 1.0  # fraction of a chosen image's tokens that are disturbed, 0 to 1
    beta: float = 0.5  # fraction of the batch's images that are chosen, 0 to 1; 0 switches perturbation off
    strength: float = 0.5  # how far, as each kind says
    anneal_start: float = 0.2  # fraction of training after which alpha and strength begin to fall
    anneal_end: float = 0.6  # fraction of training after which they stay where they are
    final_fraction: float = 0.5  # what is left of alpha and strength from then on
    latent_space: LatentSpace = "joint"  # trained on perturbed images, too; stopped: not on them; frozen: in two phases
    # frozen: fraction of training that is clean, then the decoder learns alone, perturbed; 0: a given tokenizer's
    freeze_from: float = 0.75

    def __post_init__(self) -> None:
        check_annealed(self)
        check_latent_space(self)

    def at(self, progress: float) -> tuple[float, float]:
        """(alpha, strength) once a fraction `progress` of training is done."""
        if self.latent_space == "frozen":
            return self.alpha, self.strength
        left = annealed(progress, self.anneal_start, self.anneal_end, self.final_fraction)
        return left * self.alpha, left * self.strength


@dataclass(frozen=True, kw_only=True)
class LatentNoise(LatentPerturbation):
    """Sampling errors imitated by Gaussian noise that takes a part of the latent's place."""

    strength: float = 0.5  # largest fraction of noise, 0 to 1; each image's own is uniform between 0 and this
    gamma: float = 1.0  # standard deviation of the noise, in those of the latent's channels; l-DeTok takes 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "strength")
        if self.gamma < 0:
            raise ValueError(f"perturbation gamma is a standard deviation and at least 0, not {self.gamma}")


@dataclass(frozen=True, kw_only=True)
class LatentMixing(LatentPerturbation):
    """Sampling errors imitated by moving latents towards others that are near them."""

    strength: float = 0.5  # largest part of the way, 0 to 1; each image's own is uniform between 0 and this
    neighbors: int = 8  # how many nearest latents of the batch's other images one is drawn from

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "strength")
        check_least(self, 1, "neighbors")


@dataclass(frozen=True, kw_only=True)
class AddedNoise(LatentPerturbation):
    """Sampling errors imitated by Gaussian noise of many scales that is added (RAE: Zheng et al. 2025, 2510.11690).

    Their paper has scales of a half-normal distribution, as here; their code draws them evenly from 0 to tau.
    """

    beta: float = 1.0  # fraction of the batch's images that are chosen, 0 to 1; 0 switches perturbation off
    strength: float = 0.8  # tau: an image's noise has the standard deviation |N(0, tau^2)|, in those of the channels
    final_fraction: float = 1.0  # what is left of alpha and strength from then on; RAE's do not fall

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"perturbation strength is a standard deviation and at least 0, not {self.strength}")


AnyLatentPerturbation: TypeAlias = LatentNoise | LatentMixing | AddedNoise


class LatentDraw(NamedTuple):
    """Random numbers of a perturbation, drawn before any latent is known; all of it splits along the batch."""

    chosen: TokenMask  # (b, n)
    fraction: Float[Tensor, " b"]  # of the noise, or of the way to the neighbor; of added noise its scale
    how: Tensor  # the noise itself (b, n, d), or which of the neighbors, as a number in [0, 1) (b, n)


def draw_latent(
    config: AnyLatentPerturbation,
    b: int,
    n: int,
    d: int,
    progress: float,
    *,
    perturbing: bool = True,
    generator: Generator,
) -> LatentDraw:
    """Images and tokens as `robustok.tokenizer.perturbation.chosen_tokens` draws them.

    Each image has one fraction, uniform in [0, strength], of added noise |N(0, strength^2)|; alpha and strength are
    those at `progress`, 0 to 1. No image is drawn unless `perturbing`.
    """
    alpha, strength = config.at(progress)
    chosen = chosen_tokens(b, n, alpha, config.beta if perturbing else 0.0, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    match config:
        case LatentNoise():
            return LatentDraw(chosen, strength * uniform(b), normal(b, n, d))
        case LatentMixing():
            return LatentDraw(chosen, strength * uniform(b), uniform(b, n))
        case AddedNoise():
            return LatentDraw(chosen, strength * normal(b).abs(), normal(b, n, d))


def perturb_latents(config: AnyLatentPerturbation, latents: Latents, draw: LatentDraw) -> Latents:
    """Latents with the drawn ones disturbed; gradients reach the encoder by the fraction of it that is left.

    From images that are disturbed none does, where the config says stopped.
    """
    if config.latent_space == "stopped":
        latents = torch.where(draw.chosen.any(dim=1)[:, None, None], latents.detach(), latents)
    match config:
        case LatentNoise():
            middle = latents.detach().float().mean(dim=(0, 1))
            noise = middle + config.gamma * channel_std(latents) * draw.how.to(latents)
            return interpolate_noise(latents, noise, draw.chosen, draw.fraction)
        case LatentMixing():
            return mix_neighbors(latents, draw.chosen, draw.fraction, draw.how, config.neighbors)
        case AddedNoise():
            scale = (draw.chosen * draw.fraction[:, None])[:, :, None].to(latents) * channel_std(latents).to(latents)
            return latents + scale * draw.how.to(latents)


def channel_std(latents: Latents) -> Float[Tensor, " d"]:
    """The standard deviation of each channel over images and tokens, without gradient."""
    return latents.detach().float().flatten(0, 1).std(dim=0, correction=0)


def interpolate_noise(latents: Latents, noise: Latents, chosen: TokenMask, fraction: Float[Tensor, " b"]) -> Latents:
    """(1 - s) z + s e in the chosen positions, with the fraction s of each image; z elsewhere (l-DeTok, eq. 2)."""
    s = (chosen * fraction[:, None])[:, :, None].to(latents)
    return (1 - s) * latents + s * noise


def mix_neighbors(
    latents: Latents, chosen: TokenMask, fraction: Float[Tensor, " b"], pick: Float[Tensor, "b n"], neighbors: int
) -> Latents:
    """(1 - s) z + s z' in the chosen positions, z' one of the `neighbors` latents nearest to z in other images.

    `pick`, in [0, 1), says which. At most `BANK` latents, evenly spaced over those of the batch, are looked through.
    A batch of one image, whose latents have no others, stays as it is.
    """
    b, n, d = latents.shape
    positions = chosen.nonzero()  # (m, 2): image and token
    if b < 2 or not len(positions):
        return latents
    bank = latents.detach().reshape(b * n, d).float()
    owner = torch.arange(b, device=latents.device).repeat_interleave(n)
    if len(bank) > BANK:
        kept = torch.arange(BANK, device=latents.device) * len(bank) // BANK
        bank, owner = bank[kept], owner[kept]
    count = min(neighbors, int((owner != owner[0]).sum()), int((owner != owner[-1]).sum()))
    own = latents.detach()[positions[:, 0], positions[:, 1]].float()
    which = (pick.to(latents.device)[positions[:, 0], positions[:, 1]] * count).long()
    found = torch.empty_like(own)
    for rows in torch.arange(len(own), device=latents.device).split(max(1, DISTANCES // len(bank))):
        distances = torch.cdist(own[rows], bank)
        distances[owner[None] == positions[rows, :1]] = torch.inf  # not from the image itself
        nearest = distances.topk(count, largest=False, sorted=True).indices
        found[rows] = bank[nearest.gather(1, which[rows, None])[:, 0]]
    target = latents.detach().clone()
    target[positions[:, 0], positions[:, 1]] = found.to(latents.dtype)
    return interpolate_noise(latents, target, chosen, fraction)
