"""Which perturbation of real tokens imitates a generator: the paper's reason for its pFID grid (sec. 3, 4.4).

Real tokens are perturbed over a grid of alpha and delta, and each cell's latents are compared with the generator's
and with those of other real images, by maximum mean discrepancy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from robustok.evaluation.analysis.halves import half_interval, halves
from robustok.evaluation.analysis.latent_kernel import BLOCK, Moments, View, mmd_of, views
from robustok.evaluation.intervals import Interval
from robustok.evaluation.pfid import Cell, grid
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.perturbation import neighbours, perturb

ALPHAS = tuple(i / 10 for i in range(1, 11))
DELTAS = (10, 25, 50, 70, 90, 180, 360, 720)  # of 4096 codes; in proportion at others, as pFID's, which are among them
COVERED = 0.95  # share of the halves whose best cells make a range


@dataclass(frozen=True, kw_only=True)
class Target:
    """One set of tokens beside every perturbation, in one view of the latents.

    Squared MMD throughout. `to_real` is what it is from real images, `to_unperturbed` from the images that are
    perturbed, unperturbed: a perturbation that is no nearer than that imitates nothing.
    """

    name: str
    view: str
    to_real: float
    to_unperturbed: float
    unperturbed_interval: Interval
    cells: tuple[float, ...]  # to each cell of the grid
    intervals: tuple[Interval, ...]
    best: Cell  # the nearest cell
    wins: float  # share of random halves of the images in which that cell is the nearest
    alphas: tuple[float, float]  # range of the cells that are nearest in 95 % of the halves
    deltas: tuple[int, int]
    gain: Interval  # 95 %, of to_unperturbed minus the best cell's: above 0 the imitation is better than none


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
    """alpha from 0.1 to 1 and delta from 10 to 720 of 4096 codes, in proportion; pFID's cells are among them."""
    deltas = {cell.delta for cell in grid(codebook_size)}
    deltas |= {min(max(1, round(codebook_size * delta / 4096)), codebook_size - 1) for delta in DELTAS}
    return tuple(Cell(alpha, delta) for alpha in ALPHAS for delta in sorted(deltas))


@torch.no_grad()
def imitate(
    tokens: Tokens,
    real: Tokens,
    targets: dict[str, Tokens],
    codebook: Codebook,
    lookup: Callable[[Tokens], Latents],
    *,
    cells: Sequence[Cell] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Imitation:
    """`tokens` of real images, perturbed, against each target's tokens and against `real` ones of other images.

    All cells share their random numbers: a larger alpha replaces what a smaller one replaces, and more. `progress` is
    told how many cells of how many are done.
    """
    cells = tuple(cells or imitation_grid(len(codebook)))
    near = neighbours(codebook, max(cell.delta for cell in cells))
    # halves of real images are drawn alike in every cell, those of a target by themselves
    of_images, of_targets = (_and_all(halves(len(tokens), seed=seed + i)) for i in range(2))
    fixed = {"unperturbed": tokens, "real": real, **targets}
    chosen = {
        name: (_and_all(halves(len(x), seed=seed)) if name == "unperturbed" else of_targets) for name, x in fixed.items()
    }
    chosen["real"] = _and_all(halves(len(real), seed=seed + 2))
    for name, x in targets.items():
        if len(x) != len(tokens):
            raise ValueError(f"{len(x)} images of {name} stand beside {len(tokens)} real ones; give as many of both")
    looks = views(_latents(real, lookup), codebook)
    sets = {
        look.name: {name: Moments.of(_embedded(x, lookup, look), chosen[name]) for name, x in fixed.items()}
        for look in looks
    }
    distances: dict[tuple[str, str], list[Tensor]] = {}
    for number, cell in enumerate(cells):
        generator = stream(seed, "imitation")
        noisy = perturb(tokens.cpu(), near[:, : cell.delta].cpu(), cell.alpha, 1.0, generator=generator)
        for look in looks:
            moments = Moments.of(_embedded(noisy.to(tokens.device), lookup, look), of_images)
            for name in ("real", *targets):
                distances.setdefault((name, look.name), []).append(mmd_of(moments, sets[look.name][name]))
        if progress is not None:
            progress(number + 1, len(cells))
    pfid = set(grid(len(codebook)))
    return Imitation(
        grid=cells,
        in_pfid=tuple(cell in pfid for cell in cells),
        floor={view: float(mmd_of(of["unperturbed"], of["real"])[0]) for view, of in sets.items()},
        from_real={look.name: tuple(float(d[0]) for d in distances["real", look.name]) for look in looks},
        targets=tuple(
            _target(name, look.name, cells, torch.stack(distances[name, look.name]), sets[look.name])
            for name in targets
            for look in looks
        ),
    )


def _target(name: str, view: str, cells: tuple[Cell, ...], distances: Tensor, sets: dict[str, Moments]) -> Target:
    """What the distances (cells, 1 + halves) say; the first column is of all images."""
    whole, parts = distances[:, 0], distances[:, 1:]
    best = int(whole.argmin())
    winners = parts.argmin(dim=0)
    won = [cells[i] for i in winners.tolist()]
    none = mmd_of(sets["unperturbed"], sets[name])
    return Target(
        name=name,
        view=view,
        to_real=float(mmd_of(sets["real"], sets[name])[0]),
        to_unperturbed=float(none[0]),
        unperturbed_interval=half_interval(float(none[0]), none[1:]),
        cells=tuple(whole.tolist()),
        intervals=tuple(half_interval(float(value), part) for value, part in zip(whole, parts, strict=True)),
        best=cells[best],
        wins=float((winners == best).double().mean()),
        alphas=_range([cell.alpha for cell in won]),
        deltas=_range([cell.delta for cell in won]),
        gain=half_interval(float(none[0] - whole[best]), none[1:] - parts[best]),
    )


def _range(values: list) -> tuple:
    """The smallest and the largest value, with equally many left out at both ends, 5 % together."""
    ordered = sorted(values)
    left = int((1 - COVERED) / 2 * len(ordered))
    return ordered[left], ordered[-1 - left]


def _and_all(chosen: Tensor) -> Tensor:
    """The whole set before its halves."""
    return torch.cat([torch.ones_like(chosen[:1]), chosen])


def _latents(tokens: Tokens, lookup: Callable[[Tokens], Latents]) -> Latents:
    return torch.cat([lookup(part).float() for part in tokens.split(BLOCK)])


def _embedded(tokens: Tokens, lookup: Callable[[Tokens], Latents], view: View) -> Tensor:
    def parts() -> Iterator[Tensor]:
        for part in tokens.split(BLOCK):
            yield view.embed(lookup(part).float())

    return torch.cat(list(parts()))
