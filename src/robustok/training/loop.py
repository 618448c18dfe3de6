"""The one loop of all three stages: it counts, saves, logs and evaluates, and never asks which stage it runs.

Everything random is a function of the seed and the step: `batches(step)` brings its own streams, and torch's
global generator, which dropout draws from, is seeded anew before every step. So a run that was killed at any
moment goes on from its last save as if nothing had happened; on a CPU its weights end bitwise the same.

Several processes agree in one exchange a step: on the mean of what the stage tells, on whether one of them was asked
to stop (then all save and end alike), and on whether the main one could not write (then all end, and it says why).
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from robustok.data.loading import prefetched
from robustok.evaluation.scores.score import Score
from robustok.runtime.checkpoint import write_json
from robustok.runtime.configs import check_least
from robustok.runtime.distributed import from_main, is_main, mean, rank
from robustok.runtime.locking import alone_in
from robustok.runtime.logging import MetricsLog, Progress, in_words
from robustok.runtime.seeding import derive
from robustok.runtime.stopping import SIGNALS, Stopping, stop
from robustok.runtime.threads import Threads
from robustok.runtime.trackers import TrackerName, Trackers, check_installed
from robustok.runtime.writing import Writer
from robustok.training.previews import Picture, as_image, write_previews
from robustok.training.saving import RUN, Best, Saves, values_of

FORMER = {"looking": "evaluation_seconds"}  # counts by the names that older saves have
Validation: TypeAlias = Mapping[str, float] | Sequence[Score]  # what a validation found


@runtime_checkable
class Stage(Protocol):
    """Something to train: a tokenizer, a generator, a decoder."""

    def step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Take one optimizer step and return named scalars, the most telling first.

        "skipped" = 1 says that no step was taken, because the loss or the gradient was not finite.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Length of training, and intervals at which it logs, saves and previews."""

    steps: int  # optimizer steps
    batch_size: int  # images in a step, over all ranks
    seed: int = 0  # everything random derives from it
    log_every: int = 50  # steps between rows of metrics.jsonl, which hold the mean since the last row
    save_every: int = 500  # steps between saves to go on from; 0: at the end only
    keep_last: int = 1  # saves that are kept, the last ones
    keep_best: str = "auto"  # name in metrics.jsonl by which best/ is chosen; auto: pfid, else gfid, if validated; none
    tracker: tuple[TrackerName, ...] = ()  # where metrics also go: tensorboard, wandb, trackio
    preview_every: int = 0  # steps between preview pictures; 0: none
    max_skipped: int = 10  # steps without finite loss, in a row, after which the run stops

    def __post_init__(self) -> None:
        check_least(self, 1, "steps", "batch_size", "log_every", "keep_last", "max_skipped")
        check_least(self, 0, "save_every", "preview_every")


@dataclass
class _Counts:
    """The loop's own memory from save to save."""

    done: int = 0  # steps taken
    seconds: float = 0.0  # time taken, over all parts of the run
    evaluation_seconds: float = 0.0  # of it, the time of checks and previews
    skipped: int = 0  # steps skipped in all
    skipped_in_row: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # sum and count of each term since the last row
    best: dict[str, Any] = field(default_factory=dict)  # score of the best model, see `saving.Best`

    def __post_init__(self) -> None:
        self._began = time.monotonic() - self.seconds

    def tick(self) -> None:
        """Bring the time up to date."""
        self.seconds = time.monotonic() - self._began

    def add(self, terms: Mapping[str, float]) -> None:
        """Count one step."""
        self.tick()
        skipped = terms.get("skipped", 0.0) > 0
        self.done += 1
        self.skipped += skipped
        self.skipped_in_row = self.skipped_in_row + 1 if skipped else 0
        for name, value in terms.items():
            if math.isfinite(value) and name != "skipped":
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = [total + value, count + 1]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time of a block as spent on evaluation."""
        start = time.monotonic()
        yield
        self.evaluation_seconds += time.monotonic() - start
        self.tick()

    def row(self) -> dict[str, float]:
        """The mean of each term since the last row."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def run(
    stage: Stage,
    batches: Callable[[int], Any],
    config: Loop,
    folder: str | Path,
    *,
    name: str,
    describe: Mapping[str, Any] | None = None,
    preview: Callable[[int], Mapping[str, Picture]] | None = None,
    validate: Callable[[int], Validation] | None = None,
    validate_every: int = 0,
    model: Callable[[], Any] | None = None,
    first: Callable[[], Mapping[str, float]] | None = None,
    enough: Callable[[int], bool] = lambda done: False,
    quiet: bool = False,
) -> None:
    """Train `stage` for `config.steps` steps, going on from the last save in `folder` if there is one.

    batches     the batch of step 0, 1, ...: a pure function of the step, called ahead of it in threads
    name        what the run is called on the screen
    describe    the run's whole configuration as JSON values; a run with another one is not continued
    preview     pictures by name, for `previews/{name}_{step}.png`, every `config.preview_every` steps and at the end
    validate    values by name, or scores, for `metrics.jsonl`, every `validate_every` steps and at the end
    model       the model as it would be used, for `best/`, asked for when it is the best so far
    first       values by name of what a new run begins with, row 0 of `metrics.jsonl`; not called by one that goes on
    enough      whether to end here, saved, before all steps are taken; asked before the first step and after each

    `preview`, `validate`, `enough` (with the steps taken) and `model` are called on every process. Writes `run.json`.
    Ctrl-C or SIGTERM ends the step, saves, and then raises KeyboardInterrupt or exits with 143. Raises ValueError where
    the folder holds another run or another process trains in it, RuntimeError after `config.max_skipped` skipped steps
    in a row or where all were, OSError where a file cannot be written; what was saved before stays.
    """
    folder, quiet = Path(folder), quiet or not is_main()
    check_installed(config.tracker)
    decisive = {"steps": config.steps, "batch_size": config.batch_size, "seed": config.seed}
    saves = Saves(folder, {"loop": decisive, **(describe or {})}, config.keep_last)
    with alone_in(folder), Writer() as files, Stopping(quiet=quiet) as stopping, Threads() as threads:
        counts = _begin(stage, saves, files, first)
        last = counts.done if (ended := enough(counts.done)) else config.steps
        if config.steps == counts.done == counts.skipped:
            raise _lost(counts, {}, name, folder)
        best, log = Best(folder, config.keep_best, model, counts.best), MetricsLog(folder)
        progress = Progress(name, config.steps, images_per_step=config.batch_size, start=counts.done, quiet=quiet)
        _say_where(counts.done, last, progress)
        with Trackers(config.tracker if is_main() else (), folder, saves.settings, counts.done) as trackers, progress:
            for batch in prefetched(batches, counts.done, last):
                # The step, and what all processes agree on after it.
                torch.manual_seed(derive(config.seed, "step", counts.done, rank()))
                terms = stage.step(batch, counts.done)
                values, failed, stopped = _agreed(terms, files.failed, stopping.asked)
                files.raise_if(failed)
                counts.add(values)
                _check_skipped(counts, values, config, name, folder, progress)
                done, due = counts.done, partial(_due, counts.done, config.steps)
                # A row for the log: losses every so often, scores every so often, and the model if they are the best.
                row: dict[str, float] = counts.row() if due(config.log_every) else {}
                validated = _evaluated(validate, counts, progress) if validate and due(validate_every) else {}
                if row := row | values_of(validated) | (_pace(counts, progress) if row else {}):
                    best.consider(row, validated, done, files)
                    files.now(partial(log.write, done, row))
                    trackers.write(done, row)
                if due(config.log_every) and (validate is None or due(validate_every)):
                    best.check_known(row)
                ended = enough(done)
                # Pictures, and a save to go on from.
                if preview and config.preview_every and due(config.preview_every):
                    trackers.pictures(done, _previewed(preview, counts, folder, files))
                threads.after_step(progress.say)
                if due(config.save_every) or stopped or ended:
                    files.now(log.sync)
                    counts.best = best.so_far
                    saves.save({"stage": stage.state_dict(), "counts": asdict(counts)}, done, files)
                progress.update(done, dict(islice(((n, v) for n, v in values.items() if n != "skipped"), 4)))
                if stopped or ended:
                    break
        files.wait()
        files.raise_if(_agreed({}, files.failed, None)[1])
    if counts.done < config.steps and not ended:
        progress.say(f"stopped by {signal.Signals(stopped).name} after step {counts.done}, which is saved")
        stop(stopped)


def _say_where(done: int, last: int, progress: Progress) -> None:
    """Print where a run that was begun before stands."""
    if done:
        progress.say(f"going on after step {done}" if done < last else f"already finished, {done} steps")


def _begin(
    stage: Stage, saves: Saves, files: Writer, first: Callable[[], Mapping[str, float]] | None = None
) -> _Counts:
    """Bring stage, log and counts back to the last save, or begin."""
    saved, log = saves.load(), MetricsLog(saves.folder)
    if saved is not None:
        counts = _Counts(**{FORMER.get(name, name): value for name, value in saved["counts"].items()})
        stage.load_state_dict(saved["stage"])
        files.now(lambda: log.rewind(counts.done))
        return counts
    from_main(saves.check_left)
    known = first() if first else {}
    files.now(lambda: write_json(saves.folder / RUN, saves.settings))
    files.now(lambda: log.rewind(-1))
    if known:
        files.now(lambda: log.write(0, known))
    return _Counts()


def _due(done: int, steps: int, every: int) -> bool:
    """True when something that happens every so many steps, and at the end, happens now."""
    return (every > 0 and done % every == 0) or done == steps


def _agreed(terms: Mapping[str, Tensor], failed: bool, asked: int | None) -> tuple[dict[str, float], bool, int]:
    """The mean of each term over all ranks, whether one has failed, and the signal that asks all of them to stop, or 0.

    In one exchange and one wait for the device.
    """
    flags = torch.tensor([float(failed), *(float(asked == number) for number in SIGNALS)])
    device = next((term.device for term in terms.values() if term.device.type != "cpu"), flags.device)
    stacked = torch.stack([*(term.detach().to(device, torch.float32) for term in terms.values()), *flags.to(device)])
    *values, any_failed, interrupted, terminated = mean(stacked).tolist()
    signals = [number for number, asks in zip(SIGNALS, (interrupted, terminated), strict=True) if asks]
    return dict(zip(terms, values, strict=True)), any_failed > 0, signals[-1] if signals else 0


def _pace(counts: _Counts, progress: Progress) -> dict[str, float]:
    """Images a second, and the fraction of the time that went into evaluation."""
    pace = {"skipped": counts.skipped, "images_per_second": progress.rate(counts.done), "seconds": counts.seconds}
    if counts.evaluation_seconds:
        pace["evaluation_share"] = counts.evaluation_seconds / counts.seconds
    return pace


def _evaluated(validate: Callable[[int], Validation], counts: _Counts, progress: Progress) -> Validation:
    """Call the validation callback; say what it found, and what evaluation costs."""
    with counts.evaluating():
        validated = validate(counts.done)
    if values := values_of(validated):
        fraction = f"{counts.evaluation_seconds / counts.seconds:.0%} of the time so far went into evaluation"
        progress.say(f"at step {counts.done}: {in_words(values)} ({fraction})")
    return validated


def _previewed(
    preview: Callable[[int], Mapping[str, Picture]], counts: _Counts, folder: Path, files: Writer
) -> dict[str, Image.Image]:
    """Ask for pictures and write them."""
    with counts.evaluating():
        pictures = {title: as_image(picture) for title, picture in preview(counts.done).items()}
    files.now(partial(write_previews, pictures, folder, counts.done))
    return pictures


def _check_skipped(
    counts: _Counts, values: Mapping[str, float], config: Loop, name: str, folder: Path, progress: Progress
) -> None:
    """Say that a step was skipped. Raises RuntimeError after `max_skipped` in a row, or where all steps were."""
    if not counts.skipped_in_row:
        return
    progress.say(f"step {counts.done} skipped, loss or gradient not finite ({counts.skipped_in_row} in a row)")
    if counts.skipped_in_row >= config.max_skipped or counts.skipped == counts.done == config.steps:
        raise _lost(counts, values, name, folder)


def _lost(counts: _Counts, values: Mapping[str, float], name: str, folder: Path) -> RuntimeError:
    """The error of too many steps in a row that were skipped: since some step, or from the first one on."""
    what = "the loss or its gradient was not finite"
    lost = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    if counts.skipped < counts.done:
        told = f"{what} in the last {counts.skipped_in_row} steps; lower the learning rate, lengthen the warm-up"
    else:
        told = (
            f"every step was skipped, since {what} from the first one on{lost and f' ({lost})'}, so nothing was "
            "learned; no learning rate helps: look at the images, the weights that it began with and the terms of the "
            "loss,"
        )
    remedy = f"or train in fp32, in another folder than {folder}"
    return RuntimeError(f"{name} stopped at step {counts.done}: {told} {remedy}")
