"""Which perturbation of real tokens imitates a generator: the paper's reason for its pFID grid (sec. 3, 4.4).

Real tokens are perturbed over a grid of alpha and delta, and each cell's latents are compared with the generator's
and with those of other real images, by maximum mean discrepancy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from robustok.analysis.halves import half_interval, halves, other_halves
from robustok.analysis.latent_kernel import BLOCK, Embedded, embed, views
from robustok.evaluation.metrics.pfid import Cell, grid
from robustok.evaluation.scores.intervals import Interval
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.perturbation import neighbours, perturb

ALPHAS = tuple(i / 10 for i in range(1, 11))
DELTAS = (10, 25, 180, 360, 720)  # of 4096 codes, in proportion at others; beside those of pFID
JOINT = "joint"  # the view to rely on: places by themselves tell strengths apart best, but see no two tokens at once
COVERED = 0.95  # fraction of the halves whose best cells make a range

Lookup = Callable[[Tokens], Latents]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One set of tokens beside every perturbation, in one view of the latents.

    Squared MMD throughout. `to_real` is what it is from other real images, `to_unperturbed` from the very images that
    are perturbed: a perturbation that is no nearer than that imitates nothing.
    """

    name: str
    view: str
    to_real: float
    real_interval: Interval
    to_unperturbed: float
    cells: tuple[float, ...]  # to each cell of the grid
    best: Cell  # the nearest cell
    wins: float  # fraction of random halves of the images in which that cell is the nearest
    alphas: tuple[float, float]  # range of the cells that are nearest in 95 % of the halves
    deltas: tuple[int, int]
    gain: float  # to_unperturbed less the best cell's, the cell chosen on one half and measured on the other
    gain_interval: Interval  # where it is above 0, the imitation is better than none
    as_far: tuple[bool, ...]  # which cells are as far from real images as this set is, within the noise


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """The grid, how far each cell is from real images in each view, and every target beside it."""

    grid: tuple[Cell, ...]
    in_pfid: tuple[bool, ...]  # which cells are pFID's
    floor: dict[str, float]  # view: squared MMD of two sets of real images
    from_real: dict[str, tuple[float, ...]]  # view: of each cell from other real images
    targets: tuple[Target, ...]

    def target(self, name: str, view: str) -> Target:
        return next(target for target in self.targets if (target.name, target.view) == (name, view))


def imitation_grid(codebook_size: int) -> tuple[Cell, ...]:
    """alpha from 0.1 to 1, delta from 10 to 720 of 4096 codes, in proportion at others, and those of pFID."""
    deltas = {cell.delta for cell in grid(codebook_size)}
    deltas |= {min(max(1, round(codebook_size * delta / 4096)), codebook_size - 1) for delta in DELTAS}
    return tuple(Cell(alpha, delta) for alpha in ALPHAS for delta in sorted(deltas))


@torch.no_grad()
def imitate(
    tokens: Tokens,
    real: Tokens,
    targets: dict[str, Tokens],
    codebook: Codebook,
    lookup: Lookup,
    *,
    cells: Sequence[Cell] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Imitation:
    """`tokens` of real images, perturbed, against each target's tokens and against `real` ones of other images.

    All are of as many images, of the same class at the same place. All cells share their random numbers: a larger
    alpha replaces what a smaller one replaces, and more. `progress` is told how many images were perturbed, and
    of how many.
    """
    for name, other in {"real": real, **targets}.items():
        if other.shape != tokens.shape:
            raise ValueError(
                f"{name} tokens {tuple(other.shape)} stand beside {tuple(tokens.shape)} to perturb; give as many"
            )
    cells = tuple(cells or imitation_grid(len(codebook)))
    near = neighbours(codebook, max(cell.delta for cell in cells)).cpu()
    chosen = halves(len(tokens), seed=seed)
    parts = torch.cat([torch.ones_like(chosen[:1]), chosen])  # all images, then the halves
    looks = views(torch.cat([lookup(part.to(codebook.device)).float() for part in real.split(BLOCK)]), codebook)

    def embedded(of: Tokens) -> dict[str, Embedded]:
        return embed((lookup(part.to(codebook.device)).float() for part in of.split(BLOCK)), looks, parts)

    others = {name: embedded(of) for name, of in {"real": real, **targets}.items()}
    unperturbed, tell, total = embedded(tokens), progress or (lambda done, total: None), len(cells) * len(tokens)
    found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in others}  # by view, cell after cell
    for number, cell in enumerate(cells):
        tell(number * len(tokens), total)
        generator = stream(seed, "imitation")
        noisy = embedded(perturb(tokens.cpu(), near[:, : cell.delta], cell.alpha, 1.0, generator=generator))
        for name in others:
            found[name].append(distances(noisy, others[name]))
    tell(total, total)
    to_cells = {
        name: {view: torch.stack([by[view] for by in all_]) for view in all_[0]} for name, all_ in found.items()
    }
    own = {name: (distances(others["real"], of), distances(unperturbed, of)) for name, of in others.items()}
    return Imitation(
        grid=cells,
        in_pfid=tuple(cell in grid(len(codebook)) for cell in cells),
        floor={view: float(value[0]) for view, value in own["real"][1].items()},
        from_real={view: tuple(of_cells[:, 0].tolist()) for view, of_cells in to_cells["real"].items()},
        targets=tuple(
            _target(name, view, cells, to_cells[name][view], of_cells, (own[name][0][view], own[name][1][view]))
            for name in targets
            for view, of_cells in to_cells["real"].items()
        ),
    )


def distances(one: dict[str, Embedded], other: dict[str, Embedded]) -> dict[str, Tensor]:
    """Squared MMD in every view, and in the first two jointly: that of the sum of their kernels, half of each."""
    by_view = {view: embedded.mmd(other[view]) for view, embedded in one.items()}
    return {JOINT: (by_view["image"] + by_view["codes"]) / 2, **by_view}


class Nearest(NamedTuple):
    """The cell of a grid that is nearest to a target, and what can be relied on of that."""

    best: int  # the nearest cell
    winners: list[int]  # the nearest cell in each half of the images
    gain: float  # the distance of what is unperturbed less that of the nearest cell
    gain_interval: Interval

    @property
    def wins(self) -> float:
        return self.winners.count(self.best) / len(self.winners)


def nearest_cell(to_cells: Tensor, to_unperturbed: Tensor) -> Nearest:
    """What distances (cells, 1 + halves) and (1 + halves) say; the first column is of all images.

    The least of many noisy distances is too small where it was chosen, so it is measured on the other half.
    """
    winners = to_cells[:, 1:].argmin(dim=0)
    other = 1 + other_halves(len(winners)).to(winners.device)
    gains = to_unperturbed[other] - to_cells[winners, other]
    gain = float(gains.mean())
    return Nearest(int(to_cells[:, 0].argmin()), winners.tolist(), gain, half_interval(gain, gains))


def _target(
    name: str, view: str, cells: tuple[Cell, ...], to_cells: Tensor, to_real: Tensor, others: tuple[Tensor, Tensor]
) -> Target:
    """`to_real` is of every cell; `others` are the target's own distances to real images and to unperturbed ones."""
    own, to_unperturbed = others
    nearest = nearest_cell(to_cells, to_unperturbed)
    bounds = [half_interval(float(row[0]), row[1:]) for row in to_real - own]
    return Target(
        name=name,
        view=view,
        to_real=float(own[0]),
        real_interval=half_interval(float(own[0]), own[1:]),
        to_unperturbed=float(to_unperturbed[0]),
        cells=tuple(to_cells[:, 0].tolist()),
        best=cells[nearest.best],
        wins=nearest.wins,
        alphas=_covering([cells[i].alpha for i in nearest.winners]),
        deltas=_covering([cells[i].delta for i in nearest.winners]),
        gain=nearest.gain,
        gain_interval=nearest.gain_interval,
        as_far=tuple(low <= 0 <= high for low, high in bounds),
    )


def _covering(values: list[Number]) -> tuple[Number, Number]:
    """The smallest and the largest value, with equally many left out at both ends, 5 % together."""
    ordered = sorted(values)
    left = int((1 - COVERED) / 2 * len(ordered))
    return ordered[left], ordered[-1 - left]
