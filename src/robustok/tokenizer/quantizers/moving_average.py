"""Codes as moving averages of the latents that chose them (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1).

No gradient and no codebook loss moves them. As in VQ-VAE-2 (arXiv 1906.00446) and vector-quantize-pytorch 1.32, counts
are smoothed (Laplace), so that a code which nothing chooses keeps its place and none is divided by zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Codebook

EPSILON = 1e-5  # that smoothing adds to each count


def smoothed(counts: Float[Tensor, "books k"]) -> Float[Tensor, "books k"]:
    """Counts, none of them 0, whose sum in each book is what it was."""
    total, k = counts.sum(dim=1, keepdim=True), counts.shape[1]
    return (counts + EPSILON) / (total + k * EPSILON) * total


class ClusterAverages(nn.Module):
    """Moving averages of how many latents choose each code in a step, and of their sum."""

    counts: Float[Tensor, " k"]
    sums: Float[Tensor, "k d"]

    def __init__(self, codes: Codebook, books: int, decay: float):
        super().__init__()
        self.books, self.decay = books, decay
        self.register_buffer("counts", torch.ones(len(codes)))
        self.register_buffer("sums", codes.detach().clone())

    def begin(self, which: Tensor | slice, codes: Codebook) -> None:
        """Some codes are placed anew: each begins as the average of one latent."""
        self.counts[which] = 1.0
        self.sums[which] = codes

    def align(self, codes: Codebook) -> None:
        """As many latents as before, whose averages the codes are."""
        self.sums.copy_(codes * self._divisors())

    def update(self, counts: Float[Tensor, " k"], sums: Float[Tensor, "k d"]) -> Codebook:
        """Take in a step's counts and sums; returns where the codes are now (equations 6 to 8)."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        return self.sums / self._divisors()

    def _divisors(self) -> Float[Tensor, "k 1"]:
        return smoothed(self.counts.unflatten(0, (self.books, -1))).flatten()[:, None]
