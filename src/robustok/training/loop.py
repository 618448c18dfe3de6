"""The one loop of all three stages: it counts, saves, logs and evaluates, and never asks which stage it runs.

Everything random is a function of the seed and the step: `batches(step)` brings its own streams, and torch's
global generator, which dropout draws from, is seeded anew before every step. So a run that was killed at any
moment goes on from its last save as if nothing had happened; on a CPU its weights end bitwise the same.
"""

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from robustok.runtime.checkpoint import load_resume, save_resume, write_bytes, write_json
from robustok.runtime.distributed import barrier, is_main, mean, rank
from robustok.runtime.logging import MetricsLog, Progress, in_words
from robustok.runtime.seeding import derive
from robustok.shapes import to_pixels

RESUME, RUN = "resume.safetensors", "run.json"
Picture: TypeAlias = Tensor | Image.Image  # images (b 3 h w) or (3 h w) in [-1, 1], or a finished picture


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
    """How long to train, and how often to look."""

    steps: int  # optimizer steps
    batch_size: int  # images in a step, over all ranks
    seed: int = 0  # everything random derives from it
    log_every: int = 50  # steps between rows of metrics.jsonl, which hold the mean since the last row
    save_every: int = 500  # steps between saves to go on from; 0: at the end only
    preview_every: int = 0  # steps between preview pictures; 0: none
    max_skipped: int = 10  # steps without finite loss, in a row, after which the run stops

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("log_every", 1), ("save_every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name, least in (("preview_every", 0), ("max_skipped", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass
class _Counts:
    """What the loop itself remembers from save to save."""

    done: int = 0  # steps taken
    seconds: float = 0.0  # time trained
    skipped: int = 0  # steps skipped in all
    skipped_in_row: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # sum and count of each term since the last row

    def add(self, terms: Mapping[str, float]) -> None:
        """Count one step."""
        skipped = terms.get("skipped", 0.0) > 0
        self.done += 1
        self.skipped += skipped
        self.skipped_in_row = self.skipped_in_row + 1 if skipped else 0
        for name, value in terms.items():
            if math.isfinite(value) and name != "skipped":
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = [total + value, count + 1]

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
    check: Callable[[int], Mapping[str, float]] | None = None,
    check_every: int = 0,
    quiet: bool = False,
) -> None:
    """Train `stage` for `config.steps` steps, going on from the last save in `folder` if there is one.

    batches     the batch of step 0, 1, ...: a pure function of the step, called one step ahead in a thread
    name        what the run is called on the screen
    describe    the run's whole configuration as JSON values; a run with another one is not continued
    preview     pictures by name, asked for every `config.preview_every` steps and at the end;
                they go to `previews/{name}_{step}.png`
    check       values by name, asked for every `check_every` steps and at the end;
                they go to `metrics.jsonl`

    Both `preview` and `check` are called with the number of steps taken. Writes `run.json`, `metrics.jsonl`,
    `resume.safetensors` and `previews/`. Raises ValueError when the folder holds another run, RuntimeError
    when `config.max_skipped` steps in a row were skipped, OSError when a file cannot be written; what was
    saved before stays.
    """
    folder = Path(folder)
    counts = _resume(stage, config, folder, describe or {})
    log = MetricsLog(folder)
    began = time.monotonic() - counts.seconds
    progress = Progress(
        name, config.steps, images_per_step=config.batch_size, start=counts.done, quiet=quiet or not is_main()
    )
    if counts.done:
        left = config.steps - counts.done
        progress.say(f"going on after step {counts.done}" if left else f"already finished, {counts.done} steps")
    with progress:
        for batch in _prefetched(batches, counts.done, config.steps):
            torch.manual_seed(derive(config.seed, "step", counts.done, rank()))
            terms = stage.step(batch, counts.done)
            values = _numbers(terms)
            counts.add(values)
            counts.seconds = time.monotonic() - began
            _stop_if_lost(counts, config, name, folder, progress)
            done, due = counts.done, partial(_due, counts.done, config.steps)
            row: dict[str, float] = {}
            if due(config.log_every):
                pace = {
                    "skipped": counts.skipped,
                    "images_per_second": progress.rate(done),
                    "seconds": counts.seconds,
                }
                row |= counts.row() | pace
            if check and due(check_every):
                checked = check(done)
                if checked:
                    progress.say(f"at step {done}: {in_words(checked)}")
                row |= checked
            if row and is_main():
                log.write(done, row)
            if preview and config.preview_every and due(config.preview_every):
                _write_previews(preview(done), folder, done)
            if due(config.save_every):
                log.sync()
                _save(stage, counts, config, folder, describe or {})
            values.pop("skipped", None)
            progress.update(done, dict(islice(values.items(), 4)))


def _due(done: int, steps: int, every: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return (every > 0 and done % every == 0) or done == steps


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each term over all ranks, in one exchange and one wait for the device."""
    device = max((term.device for term in terms.values()), key=lambda device: device.type != "cpu")
    stacked = torch.stack([term.detach().to(device, torch.float32) for term in terms.values()])
    return dict(zip(terms, mean(stacked).tolist(), strict=True))


def _prefetched(batches: Callable[[int], Any], start: int, stop: int) -> Iterator[Any]:
    """`batches(start)` to `batches(stop - 1)`, the next one being made while the current one is used."""
    # One thread of its own is enough: with a second pool of them, those of the step wait for free cores.
    one_core = partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=one_core) as thread:
        ahead = thread.submit(batches, start) if start < stop else None
        for step in range(start, stop):
            assert ahead is not None
            batch = ahead.result()
            ahead = thread.submit(batches, step + 1) if step + 1 < stop else None
            yield batch


def _settings(config: Loop, describe: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the result of a run, as JSON gives it back."""
    loop = {"steps": config.steps, "batch_size": config.batch_size, "seed": config.seed}
    return dict(json.loads(json.dumps({"loop": loop} | dict(describe))))


def _resume(stage: Stage, config: Loop, folder: Path, describe: Mapping[str, Any]) -> _Counts:
    """Bring stage, log and counts back to the last save, or begin."""
    settings = _settings(config, describe)
    if not (folder / RESUME).is_file():
        if is_main():
            write_json(folder / RUN, settings)
            MetricsLog(folder).rewind(0)
        return _Counts()
    saved = load_resume(folder / RESUME)
    if saved["settings"] != settings:
        changes = "; ".join(_differences(saved["settings"], settings))
        raise ValueError(
            f"{folder} holds a run with other settings ({changes}); "
            f"choose another folder, go back to those settings, or delete {folder / RESUME} to start afresh"
        )
    stage.load_state_dict(saved["stage"])
    counts = _Counts(**saved["counts"])
    if is_main():
        MetricsLog(folder).rewind(counts.done)
    return counts


def _save(stage: Stage, counts: _Counts, config: Loop, folder: Path, describe: Mapping[str, Any]) -> None:
    state = {"stage": stage.state_dict(), "counts": vars(counts), "settings": _settings(config, describe)}
    if is_main():
        save_resume(folder / RESUME, state)
    barrier()


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """`place: old in the folder, new now` for each place where two plain configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            place = f"{where}.{name}" if where else name
            yield from _differences(old.get(name, "nothing"), new.get(name, "nothing"), place)
    elif old != new:
        yield f"{where}: {old} in the folder, {new} now"


def _stop_if_lost(counts: _Counts, config: Loop, name: str, folder: Path, progress: Progress) -> None:
    """Report a skipped step; raise when there were too many in a row."""
    if not counts.skipped_in_row:
        return
    progress.say(f"step {counts.done} skipped, loss or gradient not finite ({counts.skipped_in_row} in a row)")
    if counts.skipped_in_row >= config.max_skipped:
        raise RuntimeError(
            f"{name} stopped at step {counts.done}: the loss or its gradient was not finite in the last "
            f"{counts.skipped_in_row} steps; lower the learning rate, lengthen the warm-up or train in fp32, "
            f"in another folder than {folder}"
        )


def _write_previews(pictures: Mapping[str, Picture], folder: Path, step: int) -> None:
    if is_main():
        for name, picture in pictures.items():
            data = io.BytesIO()
            _image(picture).save(data, "PNG")
            write_bytes(folder / "previews" / f"{name}_{step:07d}.png", data.getvalue())


def _image(picture: Picture) -> Image.Image:
    """A picture as PIL has it; a batch of images becomes a grid, as square as it goes."""
    if isinstance(picture, Image.Image):
        return picture
    images = picture.detach().cpu()
    if images.ndim == 3:
        images = images.unsqueeze(0)
    b, c, h, w = images.shape
    columns = math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    cells = torch.full((rows * columns, c, h, w), 255, dtype=torch.uint8)
    cells[:b] = images if images.dtype == torch.uint8 else to_pixels(images)
    sheet = cells.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return Image.fromarray(sheet.numpy())
