"""pFID: how much a tokenizer's images suffer when its tokens err (Qiu et al. 2025, arXiv 2509.12474, sec. 4.4).

The mean of 15 Frechet distances between the input images and their perturbed reconstructions: five fractions
alpha of replaced tokens, three numbers delta of nearest codes that replacements are drawn from, every image
perturbed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from robustok.runtime.seeding import stream
from robustok.shapes import Neighbors, Tokens
from robustok.tokenizer.perturbation import perturb

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5)
CELLS = 15
BLOCK = 250  # images that share a stream of random numbers, whatever the batch size
KEPT = 500  # images of each cell whose features are kept for its interval


class Cell(NamedTuple):
    """One strength of perturbation."""

    alpha: float  # fraction of an image's tokens that are replaced
    delta: int  # nearest codes that a replacement is drawn from


def grid(codebook_size: int) -> tuple[Cell, ...]:
    """The 15 cells: delta is 50, 70, 90 at 4096 codes, in proportion at others, but 10, 15, 20 at 1024.

    Deltas of a small codebook are at least 1 and leave out the code itself; some may then be equal.
    Raises ValueError for less than two codes.
    """
    if codebook_size < 2:
        raise ValueError(f"pFID replaces codes by others and needs at least two, not {codebook_size}")
    if codebook_size == 1024:
        deltas: Sequence[int] = (10, 15, 20)
    else:
        deltas = [min(max(1, round(codebook_size * delta / 4096)), codebook_size - 1) for delta in (50, 70, 90)]
    return tuple(Cell(alpha, delta) for alpha in ALPHAS for delta in deltas)


def perturbed_by_cells(
    tokens: Tokens, near: Neighbors, cells: Sequence[Cell], *, seed: int, block: int
) -> Iterator[tuple[Cell, Tokens]]:
    """The same tokens perturbed as each cell says, one cell after the other.

    `near` holds each code's neighbors, the nearest first, at least as many as the largest delta. The random
    numbers depend on seed, cell and `block`, the position of these images among all blocks of images.
    """
    for number, cell in enumerate(cells):
        generator = stream(seed, "pfid", number, block)
        yield cell, perturb(tokens, near[:, : cell.delta], cell.alpha, 1.0, generator=generator)
