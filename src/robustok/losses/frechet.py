"""Frechet distance of feature moments as a loss: outputs that are distributed as the reference images are.

Dowson & Landau 1982; with moments averaged over training steps, since no batch is large enough for a covariance.
"""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Features, Scalar

Mean: TypeAlias = Float[Tensor, " f"]
Covariance: TypeAlias = Float[Tensor, "f f"]


class FrechetLoss(nn.Module):
    """Frechet distance between a running average of the features' moments and fixed reference moments.

    The average is exponential but starts as a plain mean. Its gradient reaches the batch at hand through that
    batch's fraction, 1 - decay in the long run, so a term's weight scales with 1 / (1 - decay). Covariances are over
    b, not b - 1. The arithmetic is in the reference's precision; give float64 where features are many.
    """

    mean: Tensor
    second_moment: Tensor
    updates: Tensor
    reference_mean: Tensor
    reference_root: Tensor

    def __init__(self, reference_mean: Mean, reference_covariance: Covariance, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, but an average needs one in [0, 1); 0.999 is usual")
        self.decay = decay
        self._before: tuple[Tensor, Tensor, Tensor]  # average and updates before the batch that is coming in
        self._batch: tuple[Tensor, Tensor]  # the moments of what has come of it
        self._rows = 0  # of it
        self.register_buffer("reference_mean", reference_mean, persistent=False)
        self.register_buffer("reference_root", square_root(reference_covariance), persistent=False)
        self.register_buffer("mean", torch.zeros_like(reference_mean))
        self.register_buffer("second_moment", torch.zeros_like(reference_covariance))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, features: Features, *, first: bool = True) -> Scalar:
        """Take in one batch, on several ranks that of all; one that is not finite leaves no trace in the average.

        A batch that comes in parts moves the average once: from the `first` part on it is as if what has come of the
        batch were all. The gradient of each part is that of a whole batch, to be weighed by the part's fraction.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.mean)
            own = (features.mean(dim=0), features.T @ features / len(features))
            if first:
                self._before = (self.mean, self.second_moment, self.updates)
                rows, batch = len(features), own
            else:
                rows = self._rows + len(features)
                batch = (
                    _joined(self._batch[0], own[0], len(features) / rows),
                    _joined(self._batch[1], own[1], len(features) / rows),
                )
            self._rows, self._batch = rows, (batch[0].detach(), batch[1].detach())
            old_mean, old_second_moment, updates = self._before
            finite = self._batch[0].isfinite().all() & self._batch[1].isfinite().all()
            self.updates = updates + finite
            fraction = (1 / self.updates).clamp(min=1 - self.decay).to(self.mean)
            mean = old_mean.lerp(batch[0], fraction)
            second_moment = old_second_moment.lerp(batch[1], fraction)
            self.mean = torch.where(finite, mean.detach(), old_mean)
            self.second_moment = torch.where(finite, second_moment.detach(), old_second_moment)
            covariance = second_moment - torch.outer(mean, mean)
            return frechet_loss(mean, covariance, self.reference_mean, self.reference_root)


def _joined(seen: Tensor, own: Tensor, fraction: float) -> Tensor:
    """The moment of two parts, of which the second has this fraction, with the gradient of the second as if alone."""
    return torch.lerp(seen, own.detach(), fraction) + (own - own.detach())


def frechet_loss(mean: Mean, covariance: Covariance, reference_mean: Mean, reference_root: Covariance) -> Scalar:
    """|m - r|^2 + tr(C + R^2 - 2 (R C R)^(1/2)), with R the root of the reference's covariance.

    Directions in which R C R vanishes up to rounding count as 0 in the last term and get no gradient from it,
    where the square root would give an infinite one.
    """
    product = reference_root @ covariance @ reference_root
    product = torch.where(product.isfinite().all(), product, 0)  # eigvalsh would raise; the other terms still tell
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    kept = eigenvalues > eigenvalues.detach().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    cross = torch.where(kept, eigenvalues, 1).sqrt() * kept
    spread = covariance.trace() + reference_root.square().sum() - 2 * cross.sum()
    return (mean - reference_mean).square().sum() + spread


def square_root(covariance: Covariance) -> Covariance:
    """Symmetric root of a covariance; eigenvalues below 0, which are rounding, count as 0."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T


def relative(distance: Scalar, offset: float = 0.01) -> Scalar:
    """Distance over its own value + offset: near 1 whatever the feature space, so that several can be summed."""
    return distance / (distance.detach() + offset)
