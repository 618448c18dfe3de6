"""Vendi score: the effective number of different images among some (Friedman and Dieng 2022, arXiv 2210.02410)."""

import torch
from torch import Tensor

from robustok.shapes import Features

ROUNDING = 1e-12  # eigenvalues below it, of a matrix of trace 1, are zero but for rounding


def vendi_score(features: Features, *, q: float = 1) -> float:
    """exp of the entropy of the eigenvalues of K / n, with K the cosines between n images' features: from 1 to n.

    n images that are all alike score 1, n that have nothing in common n. `q` is the order of the entropy
    (Pasarkar and Dieng 2023, arXiv 2310.12952): 1 is Shannon's, a smaller one counts rare images for more, infinity the
    most frequent alone.
    As `score_X` and `score_dual` of the authors' package and dgm-eval compute it, from whichever of the two matrices,
    X X' and X' X, is smaller: the other eigenvalues are zero. The score grows with n, so compare equal numbers only.

    Raises ValueError for no image, NaN or infinity, features that are zero, and q below 0.
    """
    if not len(features):
        raise ValueError("there are no features to count the variety of; give at least one image")
    if not q >= 0:
        raise ValueError(f"q is {q}; the order of an entropy is 0 or more, 1 as in the paper")
    x = features.double()
    length = x.norm(dim=1)
    if not length.isfinite().all():
        raise ValueError("the features hold NaN or infinity; look for broken images")
    if (length == 0).any():
        raise ValueError(f"the features of {int((length == 0).sum())} images are all zero, so they have no cosine")
    x = x / length[:, None]
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return float(_entropy(torch.linalg.eigvalsh(gram / len(x)), q).exp())


def _entropy(values: Tensor, q: float) -> Tensor:
    """Renyi's entropy of order q of eigenvalues that add up to 1; Shannon's for q = 1."""
    p = values[values > ROUNDING]
    if q == 1:
        return -(p * p.log()).sum()
    if q == float("inf"):
        return -p.max().log()
    return (p**q).sum().log() / (1 - q)
