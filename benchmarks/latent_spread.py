"""How much classes leave open of latents: the Velocity Irreducible Variance of arXiv 2606.03578 (VIV).

A latent x with noise e follows x_t = (1 - t) x + t e; its velocity is e - x, and what x_t and the class c leave open of
it is the error of the best generator there is. Where latents of a class are Gaussian and an eigenvalue of their
covariance is l, that is l / ((1 - t)^2 l + t^2), and over all t it is pi sqrt(l) / 2. So VIV is pi / 2 times the mean
root of the eigenvalues: no decoder and no generator is needed. Channels are standardized first. The covariance of all
n d numbers is taken for a Kronecker product of one of places and one of channels, which few images tell.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.evaluation.metrics.latent_pfid import ChannelStats
from robustok.shapes import Labels, Latents


def velocity_irreducible_variance(latents: Latents, labels: Labels) -> float:
    """The mean over classes, each by its share of the images, of which it needs two. Raises ValueError for fewer."""
    channels = ChannelStats.of(latents)
    varies = channels.std > 0
    standard = ((latents.double() - channels.mean) / channels.std)[..., varies]
    total = 0.0
    for label in labels.unique():
        own = standard[labels == label]
        if len(own) < 2:
            raise ValueError(f"class {int(label)} has one image, whose latents have no covariance; give at least two")
        total += len(own) / len(labels) * mean_root_eigenvalue(own)
    return math.pi / 2 * total * float(varies.double().mean())  # a channel that never changes leaves nothing open


def mean_root_eigenvalue(latents: Float64[Tensor, "b n d"]) -> float:
    """Of the covariance of latents, as a Kronecker product of that of places and that of channels."""
    deviation = latents - latents.mean(dim=0)
    own = deviation / math.sqrt(len(latents) - 1)
    places, channels = torch.einsum("bnd, bmd -> nm", own, own), torch.einsum("bnd, bne -> de", own, own)
    roots = [torch.linalg.eigvalsh(part).clamp_min(0).sqrt().mean() for part in (places, channels)]
    return float(roots[0] * roots[1] / places.trace().sqrt())
