"""The whole analysis of a tokenizer without a codebook and its generator of latents.

Each number stands beside its floor, what other real images come to. What becomes of the images is told by
`robustok.evaluation.scores.tokenizer_scores`; here it is the latents alone.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from robustok.analysis.image_sets import LabeledImages, Progress, check_models, encode, two_sets
from robustok.analysis.imitation import Imitation, nearest_cells
from robustok.analysis.latent_kernel import JOINT, VIEWS, distances, embed, views
from robustok.evaluation.metrics.ifid import Nearest
from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, NoiseCell, noised_by_cells
from robustok.evaluation.scores.halves import half_interval, halves
from robustok.evaluation.scores.intervals import Interval
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.protocol import GeneratorLike
from robustok.layers import evaluating
from robustok.runtime.configs import to_plain
from robustok.shapes import Latents
from robustok.tokenizer.protocol import TokenizerLike

LEVELS = (0.1, 0.25, 0.5, 0.75, 1.0)  # that real latents are noised to; 1: generated from nothing but the class
GRID = tuple(NoiseCell(alpha, s) for alpha in (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0) for s in (0.05, 0.1, 0.2, 0.3, 0.5))


@dataclass(frozen=True, kw_only=True)
class Return:
    """Latents that come back from real ones that were noised to a level; distances in real standard deviations."""

    how: str  # "sampled" (SDEdit), or "one pass": the mean of what could have been there
    level: float
    own: float  # root mean square distance from the image's own latent
    nearest: float  # mean distance to the nearest latent of other real images, that of real images being 1
    std: float  # standard deviation, root mean square over channels; less than 1: smoother than real ones
    apart: float  # squared MMD from other real images
    apart_interval: Interval


@dataclass(frozen=True, kw_only=True)
class LatentAnalysis:
    """Why this generator's latents differ from this tokenizer's."""

    protocol: dict[str, Any]
    shift: tuple[float, ...]  # of each channel's mean from real images, in real standard deviations
    shift_floor: tuple[float, ...]  # of other real images
    std: tuple[float, ...]  # of each channel, as a multiple of the real one
    std_floor: tuple[float, ...]
    floor: float  # squared MMD of two sets of real images
    returns: tuple[Return, ...]
    imitation: Imitation  # real latents disturbed by noise, beside the generated ones


@torch.no_grad()
def analyze_latents(
    tokenizer: TokenizerLike,
    generator: GeneratorLike,
    images: LabeledImages,
    *,
    sampling: FlowSampling | None = None,
    count: int = 1000,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress = lambda what, done, total: None,
) -> LatentAnalysis:
    """`count` real images, what the generator makes of them and of their classes, beside `count` other real images.

    Raises ValueError for parts that do not fit together.
    """
    sampling = sampling or FlowSampling()
    check_models(generator, tokenizer, sampling, images)
    chosen, others = two_sets(images.labels, count)
    own, real = (encode(tokenizer, images, indices, batch_size) for indices in (chosen, others))
    channels = ChannelStats.of(real)
    if not (channels.std > 0).all():
        raise ValueError("a channel of the latents is the same everywhere, so nothing can be told in units of it")
    parts = torch.cat([torch.ones(1, len(own), dtype=torch.bool), halves(len(own), seed=seed)])
    kernels, scale = views(real, real.flatten(0, 1)), channels.std.float()
    among, usual = embed(real, kernels, parts), _nearest(own / scale, real / scale)

    def returned(how: str, level: float, back: Latents) -> Return:
        apart = distances(embed(back, kernels, parts), among)[VIEWS.index(JOINT)]
        return Return(
            how=how,
            level=level,
            own=float(((back - own) / scale).square().mean().sqrt()),
            nearest=_nearest(back / scale, real / scale) / usual,
            std=float((ChannelStats.of(back).std / channels.std).square().mean().sqrt()),
            apart=float(apart[0]),
            apart_interval=half_interval(float(apart[0]), apart[1:]),
        )

    progress("generating", 0, 2 * len(LEVELS))
    returns, generated = [], own
    for how, level in product(("one pass", "sampled"), LEVELS):
        given: dict[str, Any] = {"start": own, "level": level, "one_pass": how == "one pass", "null_class": True}
        with evaluating(generator):
            generated = sample_latents(
                generator, images.labels[chosen], sampling, seed=seed, batch_size=batch_size, **given
            )
        returns.append(returned(how, level, generated))
        progress("generating", len(returns), 2 * len(LEVELS))

    def disturbed(cell: NoiseCell) -> Latents:
        """All cells with the same random numbers."""
        return next(latents for _, latents in noised_by_cells(own, channels, [cell], seed=seed, block=0))

    imitation = nearest_cells(
        own, real, {"generated": generated}, disturbed, GRID, NOISE_GRID, real.flatten(0, 1),
        seed=seed, progress=partial(progress, "imitation"),
    )  # fmt: skip
    made, floor = ChannelStats.of(generated), ChannelStats.of(own)  # the last was made from nothing but the class
    return LatentAnalysis(
        protocol={
            "images": images.describe(),
            "count": len(own),
            "sampling": to_plain(sampling),
            "seed": seed,
            "generator": generator.fingerprint(),
            "latent_shape": list(own.shape[1:]),
        },
        shift=tuple(((made.mean - channels.mean) / channels.std).tolist()),
        shift_floor=tuple(((floor.mean - channels.mean) / channels.std).tolist()),
        std=tuple((made.std / channels.std).tolist()),
        std_floor=tuple((floor.std / channels.std).tolist()),
        floor=imitation.floor[JOINT],
        returns=tuple(returns),
        imitation=imitation,
    )


def _nearest(latents: Latents, among: Latents) -> float:
    """Mean distance to the nearest of other images."""
    search = Nearest(latents, torch.arange(len(latents)))
    search.show(among)
    return float(search.distances.double().mean())
