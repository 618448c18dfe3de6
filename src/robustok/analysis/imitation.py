"""The perturbation of real images' tokens or latents that imitates a generator best (Qiu et al. 2025, sec. 3, 4.4).

Real ones are perturbed over a grid of cells, and each cell's latents are compared with the generator's and with those
of other real images, by maximum mean discrepancy.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from robustok.analysis.latent_kernel import JOINT, VIEWS, distances, embed, views
from robustok.evaluation.features.image_source import Progress
from robustok.evaluation.metrics.latent_pfid import NoiseCell
from robustok.evaluation.metrics.pfid import Cell, grid
from robustok.evaluation.scores.halves import half_interval, halves, other_halves
from robustok.evaluation.scores.intervals import Interval
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.perturbation import neighbors, perturb

ALPHAS = tuple(i / 10 for i in range(1, 11))
DELTAS = (10, 25, 180, 360, 720)  # of 4096 codes, in proportion at others; beside those of pFID
COVERED = 0.95  # fraction of the halves whose best cells make a range

AnyCell = TypeVar("AnyCell", Cell, NoiseCell)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One set of generated latents beside every perturbation, in one view of the latents.

    Squared MMD throughout. `to_real` is what it is from other real images, `to_unperturbed` from the very images that
    are perturbed: a perturbation that is no nearer than that imitates nothing.
    """

    name: str
    view: str
    to_real: float
    real_interval: Interval
    to_unperturbed: float
    cells: tuple[float, ...]  # to each cell of the grid
    best: Cell | NoiseCell  # the nearest cell
    wins: float  # fraction of random halves of the images in which that cell is the nearest
    ranges: tuple[tuple[float, float], ...]  # of alpha, and of delta or strength, in cells nearest in 95 % of halves
    gain: float  # to_unperturbed less the best cell's, the cell chosen on one half and measured on the other
    gain_interval: Interval  # where it is above 0, the imitation is better than none
    as_far: tuple[bool, ...]  # which cells are as far from real images as this set is, within the noise


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """The grid, how far each cell is from real images in each view, and every target beside it."""

    grid: tuple[Cell | NoiseCell, ...]
    in_pfid: tuple[bool, ...]  # which cells are pFID's
    floor: dict[str, float]  # view: squared MMD of two sets of real images
    from_real: dict[str, tuple[float, ...]]  # view: of each cell from other real images
    targets: tuple[Target, ...]

    def target(self, name: str, view: str = JOINT) -> Target:
        return next(target for target in self.targets if (target.name, target.view) == (name, view))


def imitation_grid(codebook_size: int) -> tuple[Cell, ...]:
    """alpha from 0.1 to 1, delta from 10 to 720 of 4096 codes, in proportion at others, and those of pFID."""
    deltas = {cell.delta for cell in grid(codebook_size)}
    deltas |= {min(max(1, round(codebook_size * delta / 4096)), codebook_size - 1) for delta in DELTAS}
    return tuple(Cell(alpha, delta) for alpha in ALPHAS for delta in sorted(deltas))


def imitate(
    tokens: Tokens,
    real: Tokens,
    targets: dict[str, Tokens],
    codebook: Codebook,
    lookup: Callable[[Tokens], Latents],
    *,
    cells: Sequence[Cell] = (),
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Imitation:
    """`nearest_cells` of tokens, whose codes are replaced; `cells` are those of `imitation_grid` unless told.

    All cells share their random numbers: a larger alpha replaces what a smaller one replaces, and more.
    """
    cells = cells or imitation_grid(len(codebook))
    near = neighbors(codebook, max(cell.delta for cell in cells)).cpu()

    def perturbed(cell: Cell) -> Tokens:
        return perturb(tokens.cpu(), near[:, : cell.delta], cell.alpha, 1.0, generator=stream(seed, "imitation"))

    def latents(part: Tokens) -> Latents:
        return lookup(part.to(codebook.device)).float()

    return nearest_cells(
        tokens, real, targets, perturbed, cells, grid(len(codebook)), codebook, latents, seed=seed, progress=progress
    )


@torch.no_grad()
def nearest_cells(
    own: Tensor,
    real: Tensor,
    targets: dict[str, Tensor],
    perturbed: Callable[[AnyCell], Tensor],
    cells: Sequence[AnyCell],
    pfid: Collection[AnyCell],
    codes: Codebook,
    lookup: Callable[[Tensor], Latents] = lambda latents: latents,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Imitation:
    """`own` tokens or latents, `perturbed` as each cell says, against each target's and `real` ones of other images.

    All are of as many images, of the same class at the same position; `codes` are what sets the scale of one code.
    """
    for name, of in {"real": real, **targets}.items():
        if of.shape != own.shape:
            raise ValueError(
                f"{name} tokens {tuple(of.shape)} stand beside {tuple(own.shape)} to perturb; give as many"
            )
    chosen = halves(len(own), seed=seed)
    parts = torch.cat([torch.ones_like(chosen[:1]), chosen])  # all images, then the halves
    kernels = views(real, codes, lookup)
    others = {name: embed(of, kernels, parts) for name, of in {"real": real, **targets}.items()}
    unperturbed = embed(own, kernels, parts)
    found: dict[str, list[Tensor]] = {name: [] for name in others}
    for number, cell in enumerate(cells):
        progress(number * len(own), len(cells) * len(own))
        noisy = embed(perturbed(cell), kernels, parts)
        for name, other in others.items():
            found[name].append(distances(noisy, other))
    progress(len(cells) * len(own), len(cells) * len(own))
    to_cells = {name: torch.stack(of_cells, dim=1) for name, of_cells in found.items()}  # (views, cells, 1 + halves)
    to_real = {name: distances(others["real"], of) for name, of in others.items()}  # (views, 1 + halves)
    to_own = {name: distances(unperturbed, of) for name, of in others.items()}
    return Imitation(
        grid=tuple(cells),
        in_pfid=tuple(cell in pfid for cell in cells),
        floor=dict(zip(VIEWS, to_own["real"][:, 0].tolist(), strict=True)),
        from_real={view: tuple(row) for view, row in zip(VIEWS, to_cells["real"][:, :, 0].tolist(), strict=True)},
        targets=tuple(
            _target(name, view, cells, *of_view)
            for name in targets
            for view, *of_view in zip(VIEWS, to_cells[name], to_cells["real"], to_real[name], to_own[name], strict=True)
        ),
    )


def _target(
    name: str,
    view: str,
    cells: Sequence[AnyCell],
    to_cells: Tensor,
    from_real: Tensor,
    to_real: Tensor,
    to_unperturbed: Tensor,
) -> Target:
    """Distances (cells, 1 + halves) and (1 + halves); the first column is of all images.

    The least of many noisy distances is too small where it was chosen, so it is measured on the other half.
    """
    winners = to_cells[:, 1:].argmin(dim=0)
    other = 1 + other_halves(len(winners)).to(winners.device)
    gains = to_unperturbed[other] - to_cells[winners, other]
    best, nearest, gain = int(to_cells[:, 0].argmin()), winners.tolist(), float(gains.mean())
    bounds = [half_interval(float(row[0]), row[1:]) for row in from_real - to_real]
    return Target(
        name=name,
        view=view,
        to_real=float(to_real[0]),
        real_interval=half_interval(float(to_real[0]), to_real[1:]),
        to_unperturbed=float(to_unperturbed[0]),
        cells=tuple(to_cells[:, 0].tolist()),
        best=cells[best],
        wins=nearest.count(best) / len(nearest),
        ranges=tuple(_covering(values) for values in zip(*(cells[i] for i in nearest), strict=True)),
        gain=gain,
        gain_interval=half_interval(gain, gains),
        as_far=tuple(low <= 0 <= high for low, high in bounds),
    )


def _covering(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value, with equally many left out at both ends, 5 % together."""
    ordered = sorted(values)
    left = int((1 - COVERED) / 2 * len(ordered))
    return ordered[left], ordered[-1 - left]
