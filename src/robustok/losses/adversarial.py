"""Adversarial losses of discriminator and decoder, LeCam regularization, and the adaptive weight.

Hinge: Lim & Ye 2017 (arXiv 1705.02894). Non-saturating: Goodfellow et al. 2014 (arXiv 1406.2661). The
discriminator's losses are the mean over real and fake, as in VQGAN's code (Esser et al. 2021, arXiv 2012.09841).
High logits mean "real".
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Scalar

Logits: TypeAlias = Float[Tensor, "..."]  # of any shape: one number an image or a map of them
Kind: TypeAlias = Literal["hinge", "non-saturating"]


def discriminator_loss(real_logits: Logits, fake_logits: Logits, kind: Kind = "hinge") -> Scalar:
    """Low where real logits are high and fake logits are low."""
    return (_penalty(-real_logits.float(), kind) + _penalty(fake_logits.float(), kind)) / 2


def generator_loss(fake_logits: Logits, kind: Kind = "hinge") -> Scalar:
    """Low where the discriminator takes the decoder's images for real."""
    fake = fake_logits.float()
    return -fake.mean() if kind == "hinge" else _penalty(-fake, kind)


def _penalty(wrong: Logits, kind: Kind) -> Scalar:
    """Mean cost of logits, or of their negatives, that should be low."""
    match kind:
        case "hinge":
            return F.relu(1 + wrong).mean()
        case "non-saturating":
            return F.softplus(wrong).mean()
        case _:
            raise ValueError(f"no adversarial loss is called {kind!r}; choose 'hinge' or 'non-saturating'")


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Scalar:
    """Mean absolute difference of a discriminator's activations, layer by layer, averaged over the layers.

    Wang et al. 2018 (arXiv 1711.11585, eq. 4), who sum over layers. It is what stands here for the "discriminator
    consistency" of GAR (arXiv 2609.24088), whose definition was not at hand.
    """
    differences = [(a.float() - b.float()).abs().mean() for a, b in zip(real, fake, strict=True)]
    return torch.stack(differences).mean()


class LogitAverages(nn.Module):
    """Running averages of the discriminator's mean logits on real and on fake images, the anchors of LeCam.

    An exponential moving average that starts as a plain mean, so that its start value has no weight.
    """

    real: Tensor
    fake: Tensor
    updates: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, but an average needs one in [0, 1); 0.999 is usual")
        self.decay = decay
        self._before: tuple[Tensor, Tensor, Tensor]  # the buffers before the batch that is coming in
        self._seen: tuple[float, Tensor, Tensor]  # what has come of it: fraction, and the logits' sums
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, real_logits: Logits, fake_logits: Logits, fraction: float = 1.0, *, first: bool = True) -> None:
        """Take in one batch, unless it is not finite; on several ranks pass the logits' means over all of them.

        A batch that comes in parts, each a `fraction` of it, moves the averages once: from the `first` part on they are
        as if what has come of it were all.
        """
        if first:
            self._before = (self.real, self.fake, self.updates)
            self._seen = (0.0, torch.zeros_like(self.real), torch.zeros_like(self.fake))
        seen = self._seen[0] + fraction
        real, fake = (
            total + fraction * logits.float().mean()
            for total, logits in zip(self._seen[1:], (real_logits, fake_logits), strict=True)
        )
        self._seen = (seen, real, fake)
        finite = (real + fake).isfinite()
        self.updates = self._before[2] + finite
        moved = (1 / self.updates).clamp(min=1 - self.decay)
        old_real, old_fake, _ = self._before
        self.real = torch.where(finite, old_real.lerp(real / seen, moved), old_real)
        self.fake = torch.where(finite, old_fake.lerp(fake / seen, moved), old_fake)


def lecam(real_logits: Logits, fake_logits: Logits, averages: LogitAverages) -> Scalar:
    """Squared distance of real logits from the fakes' average and the other way round.

    R_LC of Tseng et al. 2021, arXiv 2104.03310. Their released code puts a relu inside the squares, so that
    only logits on the right side of the average count; the paper, and this, counts all.
    """
    real, fake = real_logits.float(), fake_logits.float()
    return (real - averages.fake).square().mean() + (fake - averages.real).square().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, ceiling: float = 1e4) -> Scalar:
    """Weight that makes both losses pull equally hard at the decoder's last layer (Esser et al. 2021, eq. 7).

    The arguments are their gradients there; it is the length of the first over that of the second + 1e-6. Detached,
    float32, in [0, ceiling]; 0 where a gradient is not finite.
    """
    ratio = reconstruction.detach().float().norm() / (adversarial.detach().float().norm() + 1e-6)
    return torch.where(ratio.isfinite(), ratio, 0).clamp(max=ceiling)
