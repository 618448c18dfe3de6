"""What a continuous latent passes between encoder and decoder: nothing, or a Gaussian that is kept from collapsing.

The encoder's output is the latent itself (`Plain`), or the mean and the log-variance of a Gaussian that training draws
from, kept near the standard one (`KL`) or kept wide (`VarianceExpansion`). What is encoded afterwards is the mean.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from robustok.runtime.configs import check_least
from robustok.shapes import Latents, Scalar

LOG_VARIANCE = (-30.0, 20.0)  # beyond which it is cut off, as latent diffusion does


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A plain autoencoder: the encoder's output is the latent."""

    width: int = 16  # channels of a latent, d

    def __post_init__(self) -> None:
        check_least(self, 1, "width")


@dataclass(frozen=True, kw_only=True)
class KL:
    """A Gaussian posterior, held near the standard normal (Kingma & Welling 2014; Rombach et al. 2022, sec. 3.1)."""

    width: int = 16  # channels of a latent, d
    weight: float = 1e-4  # of the divergence, per number of the latent; latent diffusion's 1e-6 is per image

    def __post_init__(self) -> None:
        check_least(self, 1, "width")
        check_least(self, 0, "weight")


@dataclass(frozen=True, kw_only=True)
class VarianceExpansion:
    """A Gaussian posterior that is kept wide, with no prior (Li et al. 2026, arXiv 2603.21085)."""

    width: int = 16  # channels of a latent, d
    weight: float = 1e-3  # of the mean of 1 / (variance + floor)
    floor: float = 0.1  # variance at which the pull begins to fade

    def __post_init__(self) -> None:
        check_least(self, 1, "width")
        check_least(self, 0, "weight")
        if not self.floor > 0:
            raise ValueError(f"floor is {self.floor}; it is a variance above 0, or the term could be infinite")


AnyBottleneck: TypeAlias = Plain | KL | VarianceExpansion


class Posterior(NamedTuple):
    """The Gaussian that an image's latent is drawn from."""

    mean: Latents
    log_variance: Latents | None  # None: the mean is all there is

    def draw(self, noise: Latents) -> Latents:
        """mean + standard deviation * noise (the reparametrization of Kingma & Welling 2014, sec. 2.4)."""
        if self.log_variance is None:
            return self.mean
        return self.mean + (0.5 * self.log_variance).exp() * noise.to(self.mean)


def encoder_width(config: AnyBottleneck) -> int:
    """Channels that the encoder makes."""
    return config.width if isinstance(config, Plain) else 2 * config.width


def posterior(config: AnyBottleneck, encoded: Tensor) -> Posterior:
    """The posterior of an encoder's output (b, n, `encoder_width`), in float32."""
    encoded = encoded.float()
    if isinstance(config, Plain):
        return Posterior(encoded, None)
    mean, log_variance = encoded.chunk(2, dim=-1)
    return Posterior(mean, log_variance.clamp(*LOG_VARIANCE))


def bottleneck_loss(config: AnyBottleneck, of: Posterior) -> Scalar:
    """What the bottleneck asks of posteriors, weighted; means over images, tokens and channels.

    KL: (mean^2 + v - 1 - log v) / 2 with the variance v (Kingma & Welling 2014, app. B). Variance expansion:
    1 / (v + floor) (arXiv 2603.21085, sec. 4): reconstruction shrinks v, this widens it the more the narrower it is.
    """
    match config:
        case KL():
            assert of.log_variance is not None
            divergence = 0.5 * (of.mean.square() + of.log_variance.exp() - 1 - of.log_variance)
            return config.weight * divergence.mean()
        case VarianceExpansion():
            assert of.log_variance is not None
            return config.weight * (1 / (of.log_variance.exp() + config.floor)).mean()
        case Plain():
            return torch.zeros((), device=of.mean.device)
