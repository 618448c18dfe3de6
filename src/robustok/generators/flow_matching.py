"""Flow matching: the paths from noise to latents, the velocity along them, and what a generator of it loses.

House convention: t is the noise level, 0 at the data and 1 at pure noise; a latent at t is
x_t = (1 - t) x + t e, and a generator's velocity is the mean of e - x given x_t (Lipman et al. 2022; Liu et al. 2022).
The same model can be read along another interpolant between x and e (`along`): cosine, which with the velocity as
its target is diffusion's v-prediction (Salimans & Ho 2022), up to a factor of pi/2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from robustok.runtime.configs import check_choices
from robustok.shapes import Latents

Times: TypeAlias = Float[Tensor, " b"]
Velocity: TypeAlias = Callable[[Latents, Times], Latents]
Interpolant = Literal["linear", "cosine"]


class Coefficients(NamedTuple):
    """x_t = data x + noise e, and how fast both factors change with t; each (b 1 1)."""

    data: Tensor
    noise: Tensor
    d_data: Tensor
    d_noise: Tensor


def coefficients(t: Times, interpolant: Interpolant) -> Coefficients:
    """Of an interpolant at t: 1 - t and t (linear), or cosine and sine of pi t / 2."""
    t = t[:, None, None]
    if interpolant == "linear":
        return Coefficients(1 - t, t, -torch.ones_like(t), torch.ones_like(t))
    angle = math.pi / 2 * t
    return Coefficients(angle.cos(), angle.sin(), -math.pi / 2 * angle.sin(), math.pi / 2 * angle.cos())


def noise_levels(t: Times) -> Times:
    """`t` as it is. Raises ValueError where it is no noise level; on a GPU, that waits for what is still computed."""
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(
            f"t goes from {t.min():g} to {t.max():g}; noise levels are between 0, the data, and 1, pure noise, so "
            "divide diffusion's discrete steps by their number"
        )
    return t


def noised(latents: Latents, noise: Latents, t: Times, interpolant: Interpolant = "linear") -> Latents:
    """x_t of these latents and this noise. Raises ValueError for t outside [0, 1]."""
    at = coefficients(noise_levels(t).to(latents.device), interpolant)
    return at.data * latents + at.noise * noise


def determinant(at: Coefficients) -> Tensor:
    """That of x_t and velocity as functions of data and noise: 1 (linear), or pi / 2 (cosine)."""
    return at.data * at.d_noise - at.noise * at.d_data


def endpoints(x: Latents, velocity: Latents, at: Coefficients) -> tuple[Latents, Latents]:
    """The mean data and the mean noise that a velocity at `x` stands for: x and velocity solved for both."""
    data, noise = at.d_noise * x - at.noise * velocity, at.data * velocity - at.d_data * x
    return data / determinant(at), noise / determinant(at)


def along(velocity: Velocity, given: Interpolant, wanted: Interpolant) -> Velocity:
    """A velocity field of one interpolant as that of another.

    Both go through the same mixtures of data and noise, at other times and scales; exact, and for every t in [0, 1].
    """
    if given == wanted:
        return velocity

    def converted(x: Latents, t: Times) -> Latents:
        here = coefficients(t, wanted)
        if given == "linear":
            there_t = (here.noise / (here.data + here.noise)).flatten()
        else:
            there_t = (2 / math.pi * torch.atan2(here.noise, here.data)).flatten()
        there_t = there_t.clamp(0, 1)  # rounding may leave it beyond
        there = coefficients(there_t, given)
        there_x = x * (there.data + there.noise) / (here.data + here.noise)
        data, noise = endpoints(there_x, velocity(there_x, there_t), there)
        return here.d_data * data + here.d_noise * noise

    return converted


@dataclass(frozen=True, kw_only=True)
class TrainingTimes:
    """At which noise levels a generator is trained, and how much it counts what is wrong at each."""

    distribution: Literal["uniform", "logit-normal"] = "uniform"  # logit-normal: the logit of t is Gaussian
    mean: float = 0.0  # of the logit; above 0: more noise
    std: float = 1.0  # of the logit
    shift: float = 1.0  # above 1: more noise, as latents with many channels like it (t -> s t / (1 + (s - 1) t))
    weighting: Literal["none", "min-snr"] = "none"  # min-snr: errors of the implied data count as min(SNR, gamma)
    gamma: float = 5.0  # of min-snr: the signal-to-noise ratio from which noise levels count alike

    def __post_init__(self) -> None:
        check_choices(self)
        if not math.isfinite(self.mean):
            raise ValueError(f"mean is {self.mean}; it is that of a logit, choose a finite number")
        if not 0 <= self.std < math.inf or not 0 < self.shift < math.inf:
            raise ValueError(f"std is {self.std} and shift {self.shift}; choose at least 0, and above 0")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}; it is a ratio of powers, choose one above 0, such as 5")


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise by `shift` above 1, towards data below 1 (Esser et al. 2024, eq. 23); 0 and 1 stay."""
    return shift * t / (1 + (shift - 1) * t)


def draw_times(count: int, config: TrainingTimes, *, generator: torch.Generator) -> Times:
    """Noise levels in [0, 1] on the generator's device (logit-normal: Esser et al. 2024, eq. 19)."""
    if config.distribution == "uniform":
        t = torch.rand(count, generator=generator, device=generator.device)
    else:
        normal = torch.randn(count, generator=generator, device=generator.device)
        t = (config.mean + config.std * normal).sigmoid()
    return shifted(t, config.shift)


def loss_weights(t: Times, config: TrainingTimes, interpolant: Interpolant) -> Times:
    """What the squared error of a velocity counts at each t: 1, or min-SNR (Hang et al. 2023, arXiv 2303.09556).

    They weigh the error of the data by min(SNR, gamma), SNR = (a / s)^2 for x_t = a x + s e. An error of the velocity
    is D / s times one of the data, D the `determinant`, so it counts min(SNR, gamma) s^2 / D^2: min((1 - t)^2,
    gamma t^2) on the linear path; on the cosine one their v-prediction's min(SNR, gamma) / (SNR + 1), over (pi / 2)^2.
    A huge gamma leaves SNR, which is the plain error of the noise; a tiny one the plain error of the data.
    """
    if config.weighting == "none":
        return torch.ones_like(t)
    at = coefficients(t, interpolant)
    weights = torch.minimum(at.data.square(), config.gamma * at.noise.square()) / determinant(at).square()
    return weights.flatten()


class FlowLosses(NamedTuple):
    """What is wrong with each latent's velocity; a stage weighs them."""

    error: Times  # mean squared error (Lipman et al. 2022, eq. 9)
    direction: Times  # 1 - cosine similarity of each token's velocity to the true one (Yao et al. 2024, FasterDiT)


def flow_losses(
    velocity: Velocity, latents: Latents, noise: Latents, t: Times, interpolant: Interpolant = "linear"
) -> FlowLosses:
    """Of `velocity`, a field along the interpolant, at the x_t of these latents and this noise.

    Raises ValueError for t outside [0, 1]; it may be on the CPU, where looking costs no waiting.
    """
    x = noised(latents, noise, t, interpolant)
    t = t.to(x.device)
    at, predicted = coefficients(t, interpolant), velocity(x, t)
    target = at.d_data * latents + at.d_noise * noise
    return FlowLosses(
        (predicted - target).square().mean(dim=(1, 2)), 1 - F.cosine_similarity(predicted, target, dim=2).mean(dim=1)
    )


class FlowDraw(NamedTuple):
    """What is random in a training step, and what each latent's error counts at its noise level."""

    t: Times
    noise: Latents
    withheld: Bool[Tensor, " b"]  # labels, which guidance needs
    weights: Times
