"""Semantic regularization: quantized latents that say what is in the image.

The mean of an image's quantized latents and a frozen teacher's feature of that image are pulled together, and
apart from those of the batch's other images, by the symmetric contrastive loss of CLIP (Radford et al. 2021,
arXiv 2103.00020, fig. 3), as in Qiu et al. 2025 (arXiv 2503.08354).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Features, Scalar


def contrastive(a: Features, b: Features, scale: float | Tensor) -> Scalar:
    """Mean cross entropy of finding row i of `b` from row i of `a`, and back, by `scale` times their cosines.

    0 at best; log(rows) where all rows are alike; float32 under autocast too. On several ranks pass the rows of
    all of them. The released code of Qiu et al. takes dot products and scale 1 instead of cosines.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"contrastive compares row by row, but got {tuple(a.shape)} and {tuple(b.shape)}; "
            "bring both to one width (SemanticHead does) and pass the same images on both sides"
        )
    with torch.autocast(a.device.type, enabled=False):
        logits = scale * F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T
    match = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


class SemanticHead(nn.Module):
    """A trained linear map of the teacher's features (b f) to the codebook's width (b d)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)

    def forward(self, features: Features) -> Float[Tensor, "b d"]:
        return self.project(features)
