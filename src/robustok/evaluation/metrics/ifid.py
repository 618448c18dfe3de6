"""iFID: what lies between images that are alike (Xu et al. 2026, arXiv 2603.05630).

Each image's latent and the nearest one of another image have a midpoint; iFID is the Frechet distance of the decoded
midpoints to the images. A diffusion model that generalizes lands there: over published tokenizers without a codebook
iFID goes with gFID where rFID does not. A midpoint of two codes is no code, so tokenizers with a codebook have none.

Neighbors get nearer with more images to look among, and so iFID lower: it says among which and how many. The authors
look for the neighbors of validation images in the training set. Their released script, unlike the paper, compares
angles, draws one of the ten nearest and goes half the way on an arc; here it is the nearest by Euclidean distance and
the middle of the straight line.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.shapes import Latents

WEIGHT = 0.5  # of the neighbor
HELD = 2**30  # bytes of latents that neighbors are looked for at once; as much again of these neighbors
DISTANCES = 2**24  # held at a time: 64 MiB


class Nearest:
    """The nearest latent to each of some, among all that have been shown."""

    def __init__(self, latents: Latents, positions: Int[Tensor, " b"]):
        """`positions` tell the images of a set apart."""
        self.latents, self.positions = latents.float(), positions.to(latents.device)
        self.middle = self.latents.mean(dim=(0, 1))  # far from 0 small distances would drown in rounding
        self.neighbors = torch.zeros_like(self.latents)
        self.distances = torch.full((len(latents),), torch.inf, device=latents.device)

    def show(self, others: Latents, positions: Int[Tensor, " others"] | None = None) -> None:
        """Take in latents of the same set, each of which is no neighbor to itself, or of another one (None)."""
        others = others.to(self.latents)
        centered = (others - self.middle).flatten(1)
        for rows in torch.arange(len(self.latents), device=others.device).split(max(1, DISTANCES // len(others))):
            distances = torch.cdist((self.latents[rows] - self.middle).flatten(1), centered)
            if positions is not None:
                distances[self.positions[rows, None] == positions.to(others.device)] = torch.inf
            nearest, which = distances.min(dim=1)
            nearer = nearest < self.distances[rows]
            self.distances[rows[nearer]] = nearest[nearer]
            self.neighbors[rows[nearer]] = others[which[nearer]]

    def midpoints(self) -> Latents:
        """Half the way to the nearest. Raises ValueError where nothing has been shown."""
        if self.distances.isinf().any():
            raise ValueError("iFID takes the nearest of other images and there is none; give at least two images")
        return torch.lerp(self.latents, self.neighbors, WEIGHT)
