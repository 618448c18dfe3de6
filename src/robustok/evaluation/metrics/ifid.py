"""iFID: what lies between images that are alike (Xu et al. 2026, arXiv 2603.05630).

Each image's latent and the nearest one of another image have a midpoint; iFID is the Frechet distance of the decoded
midpoints to the images. A diffusion model that generalizes lands there: over published tokenizers without a codebook
iFID goes with gFID where rFID does not. A midpoint of two codes is no code, so tokenizers with a codebook have none.

Neighbours get nearer with more images to look among, and so iFID lower: it says among which and how many. The authors
look for the neighbours of validation images in the training set. Their released script, unlike the paper, compares
angles, draws one of the ten nearest and goes half the way on an arc; here it is the nearest by Euclidean distance and
the middle of the straight line.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.shapes import Latents

WEIGHT = 0.5  # of the neighbour
HELD = 2**30  # bytes of latents that neighbours are looked for at once; as much again of these neighbours
DISTANCES = 2**24  # held at a time: 64 MiB


class Nearest:
    """The nearest latent to each of some, among all that have been shown."""

    def __init__(self, latents: Latents, places: Int[Tensor, " b"]):
        """`places` tell the images of a set apart."""
        self.latents, self.places = latents.float(), places.to(latents.device)
        self.middle = self.latents.mean(dim=(0, 1))  # far from 0 small distances would drown in rounding
        self.neighbours = torch.zeros_like(self.latents)
        self.distances = torch.full((len(latents),), torch.inf, device=latents.device)

    def show(self, others: Latents, places: Int[Tensor, " others"] | None = None) -> None:
        """Take in latents of the same set, each of which is no neighbour to itself, or of another one (None)."""
        others = others.to(self.latents)
        centered = (others - self.middle).flatten(1)
        for rows in torch.arange(len(self.latents), device=others.device).split(max(1, DISTANCES // len(others))):
            distances = torch.cdist((self.latents[rows] - self.middle).flatten(1), centered)
            if places is not None:
                distances[self.places[rows, None] == places.to(others.device)] = torch.inf
            nearest, which = distances.min(dim=1)
            nearer = nearest < self.distances[rows]
            self.distances[rows[nearer]] = nearest[nearer]
            self.neighbours[rows[nearer]] = others[which[nearer]]

    def midpoints(self) -> Latents:
        """Half the way to the nearest. Raises ValueError where nothing has been shown."""
        if self.distances.isinf().any():
            raise ValueError("iFID takes the nearest of other images and there is none; give at least two images")
        return torch.lerp(self.latents, self.neighbours, WEIGHT)
