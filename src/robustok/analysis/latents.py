"""Where a generator of latents leaves the real ones, and which noise imitates it: the analysis without a codebook.

Each number stands beside its floor, what other real images come to. What becomes of the images is told by
`robustok.evaluation.scores.tokenizer_scores`; here it is the latents alone.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from robustok.analysis.halves import half_interval, halves
from robustok.analysis.imitation import JOINT, distances, nearest_cell
from robustok.analysis.latent_kernel import BLOCK, View, embed, views
from robustok.analysis.tokens import LabelledImages, Progress, encode, two_sets
from robustok.evaluation.decoding import evaluating
from robustok.evaluation.metrics.ifid import Nearest
from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, NoiseCell, noised
from robustok.evaluation.scores.intervals import Interval
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.flow import FlowSampling, predict_latents, sample_latents
from robustok.generators.protocol import GeneratorLike
from robustok.runtime.configs import to_plain
from robustok.shapes import Latents
from robustok.tokenizer.protocol import TokenizerLike

LEVELS = (0.1, 0.25, 0.5, 0.75, 1.0)  # that real latents are noised to; 1: generated from nothing but the class
GRID = tuple(NoiseCell(alpha, s) for alpha in (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0) for s in (0.05, 0.1, 0.2, 0.3, 0.5))


@dataclass(frozen=True, kw_only=True)
class Return:
    """What comes back from real latents that were noised to a level; distances in real standard deviations."""

    how: str  # "sampled" (SDEdit), or "one pass": the mean of what could have been there
    level: float
    own: float  # root mean square distance from the image's own latent
    nearest: float  # mean distance to the nearest latent of other real images, that of real images being 1
    spread: float  # standard deviation, root mean square over channels; less than 1: smoother than real ones
    apart: float  # squared MMD from other real images
    apart_interval: Interval


@dataclass(frozen=True, kw_only=True)
class LatentImitation:
    """Real latents disturbed by the noise of each cell, beside the generated ones. Squared MMD throughout."""

    cells: tuple[NoiseCell, ...]
    in_pfid: tuple[bool, ...]  # which cells are pFID's
    distances: tuple[float, ...]  # of each cell from the generated latents
    undisturbed: float  # of the same real latents as they are
    best: NoiseCell  # the nearest cell
    wins: float  # fraction of random halves of the images in which that cell is the nearest
    gain: float  # `undisturbed` less the best cell's, the cell chosen on one half and measured on the other
    gain_interval: Interval  # where it is above 0, the imitation is better than none


@dataclass(frozen=True, kw_only=True)
class LatentAnalysis:
    """Why this generator's latents differ from this tokenizer's."""

    protocol: dict[str, Any]
    shift: tuple[float, ...]  # of each channel's mean from real images, in real standard deviations
    shift_floor: tuple[float, ...]  # of other real images
    spread: tuple[float, ...]  # of each channel's standard deviation, as a multiple of the real one
    spread_floor: tuple[float, ...]
    floor: float  # squared MMD of two sets of real images
    returns: tuple[Return, ...]
    imitation: LatentImitation

    def to_plain(self) -> dict[str, Any]:
        """As JSON values, the contents of `analysis.json`."""
        return asdict(self)


@torch.no_grad()
def analyze_latents(
    tokenizer: TokenizerLike,
    generator: GeneratorLike,
    images: LabelledImages,
    *,
    sampling: FlowSampling | None = None,
    count: int = 1000,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> LatentAnalysis:
    """`count` real images, what the generator makes of them and of their classes, beside `count` other real images.

    Raises ValueError for parts that do not fit together.
    """
    sampling = sampling or FlowSampling()
    check_fit(generator, tokenizer, sampling)
    if (images.labels != generator.no_label).any():  # else they are of no class, and images of none are asked for
        check_classes(generator, images.labels, getattr(images, "classes", None))
    tell = progress or (lambda what, done, total: None)
    chosen, others = two_sets(images.labels, count)
    own, real = (encode(tokenizer, images, indices, batch_size) for indices in (chosen, others))
    channels = ChannelStats.of(real)
    if not (channels.std > 0).all():
        raise ValueError("a channel of the latents is the same everywhere, so nothing can be told in units of it")
    parts = torch.cat([torch.ones(1, len(own), dtype=torch.bool), halves(len(own), seed=seed)])
    looks = views(real, real.flatten(0, 1))

    def made(level: float, one_pass: bool) -> Latents:
        follow = predict_latents if one_pass else sample_latents
        labels = images.labels[chosen]
        with evaluating(generator):
            return follow(
                generator, labels, sampling,
                seed=seed, start=own, level=level, no_label=True, batch_size=batch_size,
            )  # fmt: skip

    tell("generating", 0, 2 * len(LEVELS))
    among = embed(real.split(BLOCK), looks, parts)
    floor = distances(embed(own.split(BLOCK), looks, parts), among)[JOINT]
    returns, generated = [], own
    for one_pass, level in product((True, False), LEVELS):  # the last is generated from nothing but the class
        generated = made(level, one_pass)
        apart = distances(embed(generated.split(BLOCK), looks, parts), among)[JOINT]
        returns.append(_return("one pass" if one_pass else "sampled", level, generated, own, real, channels, apart))
        tell("generating", len(returns), 2 * len(LEVELS))
    stats = {"generated": ChannelStats.of(generated), "own": ChannelStats.of(own)}
    shifts = {name: ((s.mean - channels.mean) / channels.std).tolist() for name, s in stats.items()}
    spreads = {name: (s.std / channels.std).tolist() for name, s in stats.items()}
    return LatentAnalysis(
        protocol={
            "images": images.describe(),
            "count": len(own),
            "sampling": to_plain(sampling),
            "seed": seed,
            "generator": generator.fingerprint(),
            "latent_shape": list(own.shape[1:]),
        },
        shift=tuple(shifts["generated"]),
        shift_floor=tuple(shifts["own"]),
        spread=tuple(spreads["generated"]),
        spread_floor=tuple(spreads["own"]),
        floor=float(floor[0]),
        returns=tuple(returns),
        imitation=_imitation(own, generated, channels, looks, parts, seed, tell),
    )


def _return(
    how: str, level: float, back: Latents, own: Latents, real: Latents, channels: ChannelStats, apart: Tensor
) -> Return:
    """What came back, beside the image's own latents and those of other real images."""
    spread = channels.std.float()
    return Return(
        how=how,
        level=level,
        own=float(((back - own) / spread).square().mean().sqrt()),
        nearest=_nearest(back / spread, real / spread) / _nearest(own / spread, real / spread),
        spread=float((ChannelStats.of(back).std / channels.std).square().mean().sqrt()),
        apart=float(apart[0]),
        apart_interval=half_interval(float(apart[0]), apart[1:]),
    )


def _imitation(
    own: Latents,
    generated: Latents,
    channels: ChannelStats,
    looks: list[View],
    parts: Tensor,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> LatentImitation:
    """Real latents disturbed by every cell, all with the same random numbers, beside the generated ones."""
    target = embed(generated.split(BLOCK), looks, parts)
    rows = []
    for number, cell in enumerate(GRID):
        tell("imitation", number, len(GRID))
        ((_, noisy),) = noised(own, channels, [cell], seed=seed, block=0)
        rows.append(distances(embed(noisy.split(BLOCK), looks, parts), target)[JOINT])
    tell("imitation", len(GRID), len(GRID))
    to_cells, undisturbed = torch.stack(rows), distances(embed(own.split(BLOCK), looks, parts), target)[JOINT]
    nearest = nearest_cell(to_cells, undisturbed)
    return LatentImitation(
        cells=GRID,
        in_pfid=tuple(cell in NOISE_GRID for cell in GRID),
        distances=tuple(to_cells[:, 0].tolist()),
        undisturbed=float(undisturbed[0]),
        best=GRID[nearest.best],
        wins=nearest.wins,
        gain=nearest.gain,
        gain_interval=nearest.gain_interval,
    )


def _nearest(latents: Latents, among: Latents) -> float:
    """Mean distance to the nearest of other images."""
    search = Nearest(latents, torch.arange(len(latents)))
    search.show(among)
    return float(search.distances.double().mean())
