"""Latents sampled from a generator's velocity: solvers, guidance, seeds, and from real images' latents (SDEdit).

Noise levels t and velocities are as `robustok.generators.flow_matching` has them: 0 is the data, 1 pure noise.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F

from robustok.generators.fit import check_labels, whole_labels
from robustok.generators.flow_matching import Interpolant, along, coefficients, endpoints, noised, shifted
from robustok.generators.noise import Draw, noise_stream
from robustok.generators.protocol import GeneratorLike, Made
from robustok.inference import packed
from robustok.layers import check_float32
from robustok.runtime.configs import check_choices, check_least
from robustok.shapes import Labels, Latents

Field: TypeAlias = Callable[[Latents, float], Latents]  # the velocity of latents that are all at one noise level


@dataclass(frozen=True, kw_only=True)
class FlowSampling:
    """How a generator's velocity is followed from noise to latents. Noise levels are in [0, 1], 1 is pure noise."""

    makes: ClassVar[Made] = "latents"
    asks: ClassVar[str] = "velocity"  # the method of a generator that is sampled so
    steps: int = 50  # from pure noise to the data; heun asks the generator twice a step
    method: Literal["euler", "heun", "heun-but-last", "sde"] = "euler"  # heun-but-last: EDM's, Euler at the last step
    guidance: float = 1.0  # scale g of classifier-free guidance; 1: none
    guidance_low: float = 0.0  # lowest noise level with guidance
    guidance_high: float = 1.0  # highest noise level with guidance; less than 1 keeps samples diverse
    guided_channels: int | None = None  # only the first channels of a latent are guided; None: all (SiT's code: 3)
    shift: float = 1.0  # above 1: smaller steps near noise, as latents with many channels like it
    interpolant: Interpolant = "linear"  # the path that is followed; any generator can follow both
    diffusion: Literal["linear", "decreasing"] = "linear"  # of sde: its noise is sqrt(2 t), or sqrt(2) sin(pi t / 2)^2
    last: float = 0.04  # of sde: the noise level from which its last step goes to the data without noise
    latent_noise: float = 0.0  # standard deviation of noise that is added to what was sampled, before it is decoded

    def __post_init__(self) -> None:
        check_least(self, 1, "steps")
        check_choices(self)
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance is {self.guidance}; choose 1 for none, more for stronger")
        if not 0 <= self.guidance_low <= self.guidance_high <= 1:
            raise ValueError(
                "guidance_low and guidance_high are noise levels between 0 and 1, the first not above the second; "
                f"not {self.guidance_low} and {self.guidance_high}"
            )
        if self.guided_channels is not None and self.guided_channels < 1:
            raise ValueError(f"guided_channels is {self.guided_channels}; choose at least 1, or None for all")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift is {self.shift}, which must be above 0; 1 makes equal steps")
        if not 0 <= self.latent_noise < math.inf:
            raise ValueError(f"latent_noise is {self.latent_noise}; it is a standard deviation, so 0 or more")
        if not 0 < self.last < 1:
            raise ValueError(f"last is {self.last}; it is a noise level between 0 and 1")


def time_grid(config: FlowSampling, level: float = 1.0) -> list[float]:
    """The noise levels of a sampler, from `level` down to 0: those of the whole way that are below it."""
    if config.method == "sde":
        grid = F.pad(torch.linspace(1, config.last, config.steps, dtype=torch.float64), (0, 1))
    else:
        grid = torch.linspace(1, 0, config.steps + 1, dtype=torch.float64)
    return [level, *(t for t in shifted(grid, config.shift).tolist() if t < level)]


def guided_field(generator: GeneratorLike, labels: Labels, config: FlowSampling) -> Field:
    """The generator's velocity for these labels, along the config's interpolant and with its guidance.

    Guidance moves the velocity away from that without a label (Ho & Salimans 2022, eq. 6), within an interval of
    noise levels only (Kynkaanniemi et al. 2024).
    """
    null_classes = torch.full_like(labels, generator.null_class)

    def velocity(x: Latents, t: float, labels: Labels) -> Latents:
        field = along(lambda x, t: generator.velocity(x, t, labels), "linear", config.interpolant)
        return field(x, x.new_full((len(x),), t)).float()

    def guided(x: Latents, t: float) -> Latents:
        if config.guidance == 1 or not config.guidance_low <= t <= config.guidance_high:
            return velocity(x, t, labels)
        labelled, unlabelled = velocity(x.repeat(2, 1, 1), t, torch.cat([labels, null_classes])).chunk(2)
        scales = x.new_full((x.shape[2],), config.guidance)
        if config.guided_channels is not None:
            scales[config.guided_channels :] = 1
        return unlabelled + scales * (labelled - unlabelled)

    return guided


def euler(field: Field, x: Latents, times: Sequence[float], config: FlowSampling, draw: Draw) -> Iterator[Latents]:
    """The latents after each step: straight ahead, so the error falls with the number of steps."""
    for t, following in pairwise(times):
        x = x + (following - t) * field(x, t)
        yield x


def heun(field: Field, x: Latents, times: Sequence[float], config: FlowSampling, draw: Draw) -> Iterator[Latents]:
    """The latents after each step: by the mean of the velocities at both ends of an Euler step.

    The error falls with the square of the number of steps. With "heun-but-last" the last step, to noise level 0, is
    Euler's (Karras et al. 2022, alg. 1).
    """
    for t, following in pairwise(times):
        velocity = field(x, t)
        ahead = x + (following - t) * velocity
        if following > 0 or config.method == "heun":
            ahead = x + (following - t) / 2 * (velocity + field(ahead, following))
        x = ahead
        yield x


def sde(field: Field, x: Latents, times: Sequence[float], config: FlowSampling, draw: Draw) -> Iterator[Latents]:
    """The latents after each step of the reverse-time diffusion by Euler-Maruyama; the last one adds no noise.

    dx = (v - w s) dt + sqrt(2 w) dW with the score s has the same marginals for every w(t) (Ma et al. 2024, SiT,
    eq. 10); w is t, or sin(pi t / 2)^4. SiT calls the first sigma on its linear path.
    """
    for t, following in pairwise(times):
        velocity, at = field(x, t), coefficients(x.new_full((1,), t), config.interpolant)
        score = -endpoints(x, velocity, at)[1] / at.noise
        w = t if config.diffusion == "linear" else math.sin(math.pi / 2 * t) ** 4
        x = x + (following - t) * (velocity - w * score)
        if following > 0:
            x = x + math.sqrt(2 * w * (t - following)) * draw()
        yield x


def integrate(field: Field, x: Latents, config: FlowSampling, draw: Draw, *, level: float = 1.0) -> Iterator[Latents]:
    """The latents after each step from noise level `level` to 0; `draw` gives the noise of an sde's steps."""
    sampler = {"euler": euler, "heun": heun, "heun-but-last": heun, "sde": sde}[config.method]
    return sampler(field, x, time_grid(config, level), config, draw)


@torch.no_grad()
def sample_latents(
    generator: GeneratorLike,
    labels: Labels,
    config: FlowSampling,
    *,
    seed: int,
    first: int = 0,
    start: Latents | None = None,
    level: float = 1.0,
    one_pass: bool = False,
    null_class: bool = False,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Latents:
    """Latents of one image per label, on the labels' device.

    Image i is drawn with noise that depends on (seed, first + i) alone. With `start`, latents of real images, each is
    noised to `level` and followed from there (SDEdit; Meng et al. 2021): level 0 gives `start` back, 1 ignores it; it
    is 1 - sigma for a preservation ratio sigma. `progress` is told how many images are done. Labels are below
    `generator.null_class`, which stands for no class; `null_class` lets it be one of them. Raises ValueError for a
    level outside [0, 1] and for labels or latents that do not fit the generator or are not finite.

    With `one_pass` the noised x_t is not followed: the mean of all latents that could have been noised to it is taken,
    E[x | x_t], in one forward pass. Guidance is the config's; steps, method and shift do not matter. A mean is
    smoother than a sample: of Gaussian data of variance v it has (a^2 v + s^2) / (a^2 v) times less, a and s the
    factors of data and noise at the level.
    """
    labels = whole_labels(labels)  # of 8 bits there may be no room for the class that stands for none
    _check(generator, labels, config, start, level, null_class)
    if start is not None and level == 0:
        return start.to(labels.device, torch.float32, copy=True)
    device, batches = generator.device, []
    for begin in range(0, len(labels), batch_size):
        part = slice(begin, min(begin + batch_size, len(labels)))
        fresh = noise_stream(seed, range(first + part.start, first + part.stop), generator.latent_shape)

        def draw(fresh: Draw = fresh) -> Latents:
            return fresh().to(device)

        x = draw()
        if start is not None:
            x = noised(start[part].to(x), x, torch.full((len(x),), level), config.interpolant)
        field = guided_field(generator, labels[part].to(device), config)
        with packed(generator):
            if one_pass:
                x = endpoints(x, field(x, level), coefficients(x.new_full((1,), level), config.interpolant))[0]
            else:
                x = deque(integrate(field, x, config, draw, level=level), maxlen=1).pop()
        if config.latent_noise:
            x = x + config.latent_noise * draw()
        if not x.isfinite().all():
            raise ValueError("sampling ended in NaN or infinity; use less guidance, more steps, or other weights")
        batches.append(x.to(labels.device))
        if progress is not None:
            progress(part.stop)
    return torch.cat(batches) if batches else torch.empty(0, *generator.latent_shape, device=labels.device)


def _check(
    generator: GeneratorLike,
    labels: Labels,
    config: FlowSampling,
    start: Latents | None,
    level: float,
    null_class: bool,
) -> None:
    check_float32(generator)
    n, d = generator.latent_shape
    check_labels(generator, labels, null_class=null_class)
    if (config.guided_channels or 0) > d:
        raise ValueError(f"guided_channels is {config.guided_channels}, but the latents have {d}; use None for all")
    if not 0 <= level <= 1:
        raise ValueError(f"level is {level}; it is a noise level between 0 and 1, that is 1 - sigma")
    if start is None:
        if level < 1:
            raise ValueError(f"level is {level}, so sampling starts from latents of images; give them as start")
        return
    if start.shape != (len(labels), n, d):
        raise ValueError(
            f"start is {tuple(start.shape)}, but {len(labels)} labels need ({len(labels)}, {n}, {d}); "
            "encode the images with the tokenizer that the generator was trained on"
        )
    if not start.isfinite().all():
        raise ValueError("start holds NaN or infinity; encode the images again with a sound tokenizer")
