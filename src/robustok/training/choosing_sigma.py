"""`sigma="auto"`: the share of a pair that stays real is chosen by short tries, judged by held-out images.

A try is a run of its own, from start to end, with the losses and the free samples of the run that is to come, fewer
pairs, and a small learning rate that falls to the end: at its own, which helps after hundreds of steps, a decoder is
first thrown off what main training had settled on, by more than shares differ. Tries that went on for another round, as
successive halving has it, lost by it what their order had told; tries half as long had none to tell
(docs/studies/post_training/tried.md).

Shares are tried from the smallest on, until one is worse than the one before: the distance has one valley. Of those
that tries cannot tell apart the smallest is taken, which whole runs gained most with.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
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

SIGMAS = (0.5, 0.7, 0.9)  # from much of the generator to little (arXiv 2509.12474: 0.7 to 0.95, by the decoder)
ONE_IN = 12  # steps of a run, that each share is tried for; two of them take a fifth of its time, with pairs and looks
PASSES = 2  # of a try over its pairs
LOOKED_AT = 500  # held-out samples by which tries are judged; of 256 they could not be told apart
SLOWER = 0.2  # learning rate of a try, over the run's
AVERAGES = 5  # weight averages fit into a try: that of a run would hold mostly the original
ALIKE = 0.1  # of what the farthest try changed: with other pairs and another seed shares differed by that much again
TRIES = "tries"  # in a run's folder: theirs, and what they found

Tune = Callable[[PostTraining, Path, HeldOut, str], TrainedDecoder[Any]]


@dataclass(frozen=True, kw_only=True)
class Try:
    """One share of a pair, tried for some steps."""

    sigma: float
    steps: int
    distance: float  # held-out distance of its decoder; infinite where all that it makes is alike
    before: float  # that of the original, likewise
    seconds: float  # pairs and looks included

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

    `tune` trains a decoder as a config says, in a folder, judged by held-out images, under a name. Raises ValueError
    where the folder holds tries with other settings.
    """
    path = folder / TRIES / "tries.json"
    tries = [Try.from_plain(row) for row in from_main(lambda: read_json(path) if path.exists() else [])]
    short = _short(config)
    for sigma in {one.sigma for one in tries}:
        _check_same(replace(short, sigma=sigma), _place(folder, sigma))
    judge = check.of_some(LOOKED_AT)
    for sigma in SIGMAS[len(tries) :]:
        if len(tries) > 1 and tries[-1].distance > tries[-2].distance:
            break
        began = time.monotonic()
        found = tune(replace(short, sigma=sigma), _place(folder, sigma), judge, f"try at sigma {sigma}")
        seconds = round(time.monotonic() - began, 1)
        steps = short.loop.steps
        tries.append(Try(sigma=sigma, steps=steps, distance=found.last, before=found.before, seconds=seconds))
        rows = [one.to_plain() for one in tries]
        from_main(partial(write_json, path, rows))
    return replace(config, sigma=chosen(tries).sigma), tries


def chosen(tries: Sequence[Try]) -> Try:
    """The one with the smallest share of those that are as good as the best."""
    changes = [abs(one.distance - one.before) for one in tries]
    best = min(one.distance for one in tries) + ALIKE * max(filter(math.isfinite, changes), default=0.0)
    return min((one for one in tries if one.distance <= best), key=lambda one: one.sigma)


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


def _short(config: PostTraining) -> PostTraining:
    """A try of a run, but for its share. A fresh discriminator does not charge in it, for it would know nothing yet."""
    steps = max(1, config.loop.steps // ONE_IN)
    adversary = config.objective.adversary
    charges = 0.0 if adversary.gan_start == 0 else 1.0
    return replace(
        config,
        pairs=min(config.pairs, max(1, steps // PASSES) * config.loop.batch_size),
        loop=replace(config.loop, steps=steps, preview_every=0),
        objective=replace(config.objective, adversary=replace(adversary, gan_start=charges)),
        optim=replace(config.optim, lr=SLOWER * config.optim.lr, warmup=min(config.optim.warmup, steps // 10)),
        ema_decay=min(config.ema_decay, max(0.0, 1 - AVERAGES / steps)),
        validate_every=steps,
        patience=0,
        witnesses=(),
    )
