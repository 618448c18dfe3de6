"""`sigma="auto"`: the share of a pair that stays real is chosen by short tries, judged by held-out images.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all shares are tried for some steps, the better half
goes on for as many again, and so on until one is left. A try is the beginning of the run that is to come, with its
losses and its free samples, but fewer pairs and a small learning rate: at its own, which helps in the end, a decoder is
first thrown off what main training had settled on, by more than shares differ.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.distributed import from_main
from robustok.training.decoder_stage import PostTraining, TrainedDecoder
from robustok.training.held_out import HeldOut
from robustok.training.performance import without_performance
from robustok.training.saving import RUN, deciding

SIGMAS = (0.5, 0.7, 0.8, 0.9)  # from much of the generator to little (arXiv 2509.12474: 0.7 to 0.95, by the decoder)
ONE_IN = 40  # steps of a run, that each share is tried in the first round; with pairs and looks, a fifth of its time
SLOWER = 0.2  # learning rate of a try, over the run's
AVERAGES = 5  # weight averages fit into the first round of a try: that of a run would hold mostly the original
TRIES = "tries"  # in a run's folder: theirs, and what they found

Tune = Callable[[PostTraining, Path, HeldOut, int], TrainedDecoder[Any]]


@dataclass(frozen=True, kw_only=True)
class Try:
    """One share of a pair, tried for some steps."""

    sigma: float
    steps: int
    distance: float  # held-out distance of its decoder; infinite where all that it makes is alike
    before: float  # that of the original, likewise
    seconds: float  # since the try before, pairs and looks included

    def to_plain(self) -> dict[str, float | None]:
        """JSON values, null for infinity, which JSON lacks."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Try":
        """Read what `to_plain` gave."""
        values: dict[str, Any] = {name: math.inf if value is None else value for name, value in plain.items()}
        return cls(**values)


def choose_sigma(config: PostTraining, tune: Tune, folder: Path, check: HeldOut) -> tuple[PostTraining, list[Try]]:
    """The config with the share that held-out images chose, and the tries. Those that were finished are not repeated.

    `tune` trains a decoder as a config says, in a folder, judged by held-out images, and stops after some steps. Raises
    ValueError where the folder holds tries with other settings.
    """
    path = folder / TRIES / "tries.json"
    tries = [Try.from_plain(row) for row in from_main(lambda: read_json(path) if path.exists() else [])]
    first = max(1, config.loop.steps // ONE_IN)
    for sigma in {one.sigma for one in tries}:
        _check_same(_short(config, sigma, first), _place(folder, sigma))
    judge = check.of_first(max(2, first * config.loop.batch_size))
    for steps, left in _rounds(SIGMAS, first, tries):
        for sigma in left:
            if any((one.sigma, one.steps) == (sigma, steps) for one in tries):
                continue
            began = time.monotonic()
            how = _short(config, sigma, first)
            found = tune(how, _place(folder, sigma), judge, steps)
            seconds = round(time.monotonic() - began, 1)
            tries.append(Try(sigma=sigma, steps=steps, distance=found.last, before=found.before, seconds=seconds))
            rows = [one.to_plain() for one in tries]
            from_main(partial(write_json, path, rows))
    return replace(config, sigma=_best(tries)[0]), tries


def _place(folder: Path, sigma: float) -> Path:
    return folder / TRIES / f"sigma_{sigma:g}"


def _check_same(config: PostTraining, place: Path) -> None:
    """Raises ValueError for a finished try with other settings, which would say nothing of these."""
    told = place / RUN
    if told.is_file() and deciding(read_json(told)["stage"]) != deciding(without_performance(config)):
        raise ValueError(
            f"{place.parent} holds tries of sigma with other settings; delete that folder to try anew, go back to "
            "those settings, or choose another folder"
        )


def _rounds(sigmas: tuple[float, ...], first: int, tries: list[Try]) -> Iterator[tuple[int, tuple[float, ...]]]:
    """(steps, shares) of each round; whoever works it off appends to `tries`, by which the next one is chosen."""
    steps = first
    while len(sigmas) > 1:
        yield steps, sigmas
        of_round = [one for one in tries if one.steps == steps]
        sigmas, steps = _best(of_round)[: len(sigmas) // 2], 2 * steps


def _best(tries: list[Try]) -> tuple[float, ...]:
    """The shares of the longest tries, the lowest distance first."""
    longest = max(one.steps for one in tries)
    return tuple(one.sigma for one in sorted(tries, key=lambda one: one.distance) if one.steps == longest)


def _short(config: PostTraining, sigma: float, first: int) -> PostTraining:
    """A run as the config says, of whose steps only those of the tries are ever taken."""
    longest = first * len(SIGMAS) // 2  # as many rounds as it takes to halve them down to two
    pairs = min(config.pairs, longest * config.loop.batch_size)
    return replace(
        config,
        sigma=sigma,
        pairs=pairs,
        loop=replace(config.loop, preview_every=0),
        optim=replace(config.optim, lr=SLOWER * config.optim.lr, warmup=0),
        ema_decay=min(config.ema_decay, max(0.0, 1 - AVERAGES / first)),
        validate_every=first,
        patience=0,
        witnesses=(),
    )
