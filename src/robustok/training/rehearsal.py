"""Rehearsed perturbation: the decoder learns on what a short pilot generator makes of images' tokens or latents.

Those are post-training's pairs (arXiv 2509.12474, sec. 4.3) before there is a generator. Replaced tokens fit those
around them as a generator's do, which codes drawn among a token's neighbors do not; latents are noised and followed
back, so that they err as sampled ones do and not by plain noise, which a generator takes away.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.evaluation.features.image_source import ImageSource
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling, integrate
from robustok.generators.flow_matching import noised
from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import Kept, Sampling, finish_tokens
from robustok.runtime.configs import check_least, check_shares
from robustok.shapes import Codebook, Latents, TokenMask, Tokens
from robustok.tokenizer.latent_perturbation import LatentDraw, LatentNoise, channel_std
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.protocol import TokenizerLike, books_of, codebook_of
from robustok.training.pilot import Pilot, encoded_images, new_pilot, pilot_images, train_pilot

CLASSES = 1  # that a pilot has at least; it learns and draws of none


@dataclass(frozen=True, kw_only=True)
class Rehearsed(Pilot):
    """Perturbation in two phases, in whose second one a pilot generator draws a share of each image's tokens anew.

    It learns tokens without classes, once encoder and codebook are frozen, and draws one after the other, given all
    that is there by then.
    """

    sigma: float = 0.7  # share of a chosen image's tokens that stay real, 0 to 1

    def __post_init__(self) -> None:
        check_shares(self, "sigma")
        super().__post_init__()

    def as_perturbation(self, *measured: Any) -> Perturbation:
        """Which tokens are drawn anew; by which codes, the pilot says."""
        return super().as_perturbation(1 - self.sigma, 1)


def pilot_of(
    config: Rehearsed, tokenizer: TokenizerLike, images: ImageSource | None, *, seed: int
) -> AutoregressiveModel:
    """A pilot trained on some of the images. Raises ValueError for no images."""
    images, rows = pilot_images(config, images, seed)
    tokens = encoded_images(tokenizer, images, rows)
    nothing = torch.full_like(tokens[:, 0], CLASSES)  # the null class of a pilot of so many
    return train_pilot(config, partial(empty_pilot, config, tokenizer), tokens, nothing, tokenizer.device, seed=seed)


def empty_pilot(config: Rehearsed, tokenizer: TokenizerLike) -> AutoregressiveModel:
    """A pilot before its training."""
    codebook = _codebook(tokenizer)
    return new_pilot(config, tokenizer.tokens_per_image, len(codebook), CLASSES).to(codebook.device)


def _codebook(tokenizer: TokenizerLike) -> Codebook:
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "only tokens are rehearsed"
    return codebook


@torch.no_grad()
def rehearse(
    pilot: GeneratorLike, tokenizer: TokenizerLike, tokens: Tokens, chosen: TokenMask, uniform: torch.Tensor
) -> Tokens:
    """Tokens (b n), the chosen ones drawn anew by the pilot, each by its uniform number in [0, 1).

    Of several codebooks, one below the other, a code of another one than the token's does not take its place.
    """
    nothing = torch.full_like(tokens[:, 0], pilot.null_class)
    drawn = finish_tokens(pilot, nothing, Sampling(), uniform, Kept(~chosen, tokens))
    books = books_of(tokenizer)
    size = pilot.codebook_size // books
    return torch.where(chosen & (drawn // size == tokens // size), drawn, tokens) if books > 1 else drawn


@dataclass(frozen=True, kw_only=True)
class RehearsedLatents(Pilot):
    """Perturbation in two phases, in whose second one a pilot generator cleans what `LatentNoise` did to latents.

    It learns latents without classes by flow matching, once the encoder is frozen. An image's latents are noised to a
    level of its own and followed back to the data, which is SDEdit (Meng et al. 2021, arXiv 2108.01073). Over four
    seeds gFID fell by 29 to 35 % in three spaces, with noise alone by 14 to 18 % (docs/studies/second_phases).
    """

    sigma: float = 0.5  # least share that stays real, 0 to 1: an image's noise level is uniform between 0 and 1 - sigma
    back: int = 4  # Euler steps in which the noised latents are followed back

    def __post_init__(self) -> None:
        check_shares(self, "sigma")
        check_least(self, 1, "back")
        super().__post_init__()

    def as_perturbation(self, *measured: Any) -> LatentNoise:
        """What is done to latents before the pilot follows them."""
        noise, start = 1 - self.sigma, self.freeze_from
        return LatentNoise(beta=self.beta, strength=noise, latent_space="frozen", freeze_from=start)


class LatentPilot(nn.Module):
    """A pilot of latents, with the mean and the standard deviation of each channel (d) of those that it learned."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: RehearsedLatents, latent_shape: tuple[int, int]):
        super().__init__()
        self.generator = empty_latent_pilot(config, latent_shape)
        self.register_buffer("mean", torch.zeros(latent_shape[1]))
        self.register_buffer("std", torch.ones(latent_shape[1]))

    def follow(self, latents: Latents, level: Float[Tensor, " b"], noise: Latents, steps: int) -> Latents:
        """Latents (b n d) noised to each image's own level, 0 to 1, and followed back to the data."""
        nothing = torch.full((len(latents),), self.generator.null_class, device=latents.device)
        x = noised((latents - self.mean) / self.std, noise, level)

        def field(x: Latents, t: float) -> Latents:
            """By t, the share of its own level that is left of an image's noise."""
            return level[:, None, None] * self.generator(x, t * level, nothing).float()

        *_, x = integrate(field, x, FlowSampling(steps=steps), lambda: noise)
        return x * self.std + self.mean


def empty_latent_pilot(config: RehearsedLatents, latent_shape: tuple[int, int]) -> DiffusionTransformerModel:
    """A pilot of latents before its training."""
    n, d = latent_shape
    return DiffusionTransformerModel(
        DiffusionTransformer(
            tokens=n,
            channels=d,
            classes=CLASSES,
            width=config.width,
            depth=config.depth,
            heads=config.width // 32,
            layout="grid" if math.isqrt(n) ** 2 == n else "sequence",
        )
    )


def latent_pilot_of(
    config: RehearsedLatents, tokenizer: TokenizerLike, images: ImageSource | None, *, seed: int
) -> LatentPilot:
    """A pilot trained on some of the images' latents. Raises ValueError for no images."""
    latents, device = encoded_images(tokenizer, *pilot_images(config, images, seed)), tokenizer.device
    shape = (latents.shape[1], latents.shape[2])
    pilot = LatentPilot(config, shape)
    pilot.mean.copy_(latents.mean(dim=(0, 1)))
    pilot.std.copy_(channel_std(latents).clamp_min(torch.finfo(torch.float32).tiny))  # of a channel that never changes
    nothing, standard = torch.full((len(latents),), CLASSES), latents.sub_(pilot.mean).div_(pilot.std)  # may be GBs
    build = partial(empty_latent_pilot, config, shape)
    pilot.generator = train_pilot(config, build, standard, nothing, device, seed=seed)
    return pilot.to(device)


@torch.no_grad()
def rehearse_latents(pilot: LatentPilot, latents: Latents, draw: LatentDraw, steps: int) -> Latents:
    """Latents (b n d), those of chosen images as the pilot makes them from what noise left of them."""
    rows = draw.chosen.any(dim=1).nonzero().flatten()
    followed = pilot.follow(latents[rows].float(), draw.fraction[rows], draw.how[rows].float(), steps)
    return latents.index_copy(0, rows, followed.to(latents.dtype))
