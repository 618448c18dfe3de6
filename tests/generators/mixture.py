"""A two-dimensional mixture of Gaussians whose velocity is known at every noise level."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robustok.generators.flow_matching import Interpolant, coefficients


@dataclass(frozen=True)
class Mixture:
    """Equal parts of round Gaussians with these means (components 2) and one standard deviation."""

    means: Tensor
    std: float

    def sample(self, count: int, *, seed: int) -> Tensor:
        """(count 1 2)."""
        generator = Generator().manual_seed(seed)
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        return (self.means[chosen] + self.std * torch.randn(count, 2, generator=generator)).unsqueeze(1)

    def velocity(self, x: Tensor, t: Tensor, interpolant: Interpolant = "linear", only: Tensor | None = None) -> Tensor:
        """E[dx_t/dt | x_t = x] of x_t = a X + s E, where each part has mean a m and variance (a std)^2 + s^2.

        `only` (b components) says which parts each latent may come from.
        """
        at = coefficients(t, interpolant)
        variance = (at.data * self.std) ** 2 + at.noise**2  # (b 1 1)
        offsets = x - at.data * self.means.to(x)  # (b components 2)
        scores = -offsets.square().sum(2) / (2 * variance[:, 0])
        weights = (scores if only is None else scores.where(only, -torch.inf)).softmax(dim=1)[:, :, None]
        data = self.means.to(x) + at.data * self.std**2 / variance * offsets
        noise = at.noise / variance * offsets
        return (weights * (at.d_data * data + at.d_noise * noise)).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class MixtureGenerator:
    """A generator of (1 2) latents: label i asks for the i-th part of a mixture, the last one for all of it."""

    mixture: Mixture
    latent_shape: tuple[int, int] = (1, 2)

    @property
    def device(self) -> torch.device:
        return self.mixture.means.device

    @property
    def null_class(self) -> int:
        return len(self.mixture.means)

    def fingerprint(self) -> str:
        return "mixture"

    def velocity(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        parts = len(self.mixture.means)
        only = (labels[:, None] == torch.arange(parts)) | (labels[:, None] == self.null_class)
        return self.mixture.velocity(latents, t, only=only)


MIXTURE = Mixture(means=torch.tensor([[-2.0, 0.5], [1.0, 1.0], [0.5, -1.5]]), std=0.4)
