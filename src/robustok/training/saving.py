"""Saves of a run, to go on from, and the best model so far.

A save is one file, however many processes train: tensors that FSDP cut are put together one after the other and
copied to the main process's memory, which then writes while training goes on. So any number of processes reads what
any other number wrote. torch.distributed.checkpoint, with its safetensors storage, keeps every rank's pieces; but it
drops what is no tensor (writing a file that cannot be read), overwrites in place, and needs the right structure before
it reads. What one file costs is the main process's memory for one copy of the state: 7 GB for a generator of 460
million weights with its average and two moments, and as many bytes over the network.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robustok.evaluation.scores.metric_names import metric_named
from robustok.evaluation.scores.score import Score
from robustok.runtime.checkpoint import MODEL, load_resume, read_json, replacing, save_resume, write_json
from robustok.runtime.configs import completed
from robustok.runtime.distributed import gather, is_main
from robustok.runtime.words import some
from robustok.runtime.writing import Writer, snapshot

RESUME, RUN, BEST = "resume.safetensors", "run.json", "best"
AUTO = ("pfid", "gfid")  # the scores by which the best model is chosen unless another is named
LEFT = (BEST, "previews", MODEL, "discriminator")  # what a run leaves beside its saves
TOLD_SINCE = ("flip",)  # names of settings that older versions' runs do not tell
DECIDES = ("type", "steps", "batch_size", "seed")  # what of a Loop decides the result


@dataclass
class Saves:
    """The file to go on from, and the `keep_last` ones before it by their steps: `resume_0001500.safetensors`.

    `settings` are the run's: a file with others is refused.
    """

    folder: Path
    settings: Mapping[str, Any]
    keep_last: int = 1

    def load(self) -> dict[str, Any] | None:
        """The last save's {"stage", "counts"}, or None where there is none. Raises ValueError for another run's.

        All processes must find the same one, or a ValueError says that they do not share a disk.
        """
        path, saved = self.folder / RESUME, None
        if path.is_file():
            try:
                saved = load_resume(path)
            except ValueError as error:
                older = f"; or rename {self._older()[-1]} beside it, to go on from there" if self._older() else ""
                raise ValueError(f"{error}; or delete it to start afresh{older}") from error
        done = int(saved["counts"]["done"]) if saved else 0
        everyone = gather(torch.tensor([done])).tolist()
        if len(set(everyone)) > 1:
            raise ValueError(
                f"{path} holds different steps for different processes ({', '.join(map(str, everyone))}); "
                "give a folder on a disk that all machines share"
            )
        if saved and (changes := "; ".join(self._changes(saved["settings"]))):
            gone = some([str(path), *map(str, self._left())])
            raise ValueError(
                f"{self.folder} holds a run with other settings ({changes}); "
                f"choose another folder, go back to those settings, or delete {gone} to start afresh"
            )
        return saved

    def check_left(self) -> None:
        """Raises ValueError where a run with other settings, whose save is gone, left what this one would not replace.

        What a run with the same settings left is what this one will make again.
        """
        left = self._left()
        told = next((path for path in (self.folder / RUN, self.folder / BEST / RUN) if path.is_file()), None)
        if left and told and self._changes(read_json(told)):
            raise ValueError(
                f"{self.folder} holds what a run with other settings left, without the {RESUME} that it could go on "
                f"from; choose another folder, or delete {some([*map(str, left)])} to start afresh"
            )

    def _changes(self, former: Mapping[str, Any]) -> list[str]:
        """What differs from the settings of another run; of what an older version did not tell, nothing does."""
        now = {name: value for name, value in self.settings.items() if name in former or name not in TOLD_SINCE}
        return list(_differences(deciding(former), deciding(now)))

    def _left(self) -> list[Path]:
        """Everything that a run leaves beside its last save, as far as it is there."""
        names = [*self._older(), *LEFT]
        return [self.folder / name for name in names if (self.folder / name).exists()]

    def save(self, state: Mapping[str, Any], done: int, files: Writer) -> None:
        """Copy the state now, on all processes; have it written in the background."""
        files.wait()  # so that there is one copy at a time
        whole = snapshot({**state, "settings": dict(self.settings)})
        files.later(lambda: self._write(whole, done))

    def _write(self, state: Any, done: int) -> None:
        save_resume(self.folder / RESUME, state)
        for stale in [name for name in self._older() if name > _named(done)]:  # of a future that will come again
            (self.folder / stale).unlink()
        if self.keep_last > 1:
            _link(self.folder / RESUME, self.folder / _named(done))
        for old in self._older()[: -self.keep_last] if self.keep_last > 1 else self._older():
            (self.folder / old).unlink()

    def _older(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("resume_*.safetensors"))


@dataclass
class Best:
    """The model with the best score so far, in `folder/best`: weights, config, recipe, the scores it was chosen by.

    `by` is the name of a score or of a loss; "auto" is the first of `AUTO` that is checked, "none" nothing.
    """

    folder: Path
    by: str
    model: Callable[[], Any] | None  # what would be used, with `save_pretrained`; called on all processes
    so_far: dict[str, Any] = field(default_factory=dict)  # {"by", "value", "step"}

    def __post_init__(self) -> None:
        if self.model is None and self.by not in ("auto", "none"):
            raise ValueError(f"this stage keeps no best model by a score; set keep_best to auto or none, not {self.by}")
        whole, old = self.folder / BEST, self.folder / f"{BEST}.old"
        if is_main() and old.is_dir() and not whole.exists():  # killed between two renames
            old.rename(whole)

    def consider(
        self, row: Mapping[str, float], checked: Mapping[str, float] | Sequence[Score], done: int, files: Writer
    ) -> None:
        """Keep the model if it is the best so far by a `row` of metrics, which what was `checked` is a part of."""
        by = next((name for name in AUTO if name in row), None) if self.by == "auto" else self.by
        if self.model is None or by is None or not math.isfinite(row.get(by, math.nan)):
            return
        better = max if metric_named(by).better == "higher" else min
        value, former = row[by], self.so_far.get("value") if self.so_far.get("by") == by else None
        if former is not None and better(value, former) == former:
            return
        self.so_far = {"by": by, "value": value, "step": done}
        found = {name: score for name, score in values_of(checked).items() if math.isfinite(score)}
        about, model = self.so_far | {"scores": found}, self.model()
        records = [score.to_plain() for score in checked if isinstance(score, Score)]
        files.now(lambda: self._write(model, about, records))

    def check_known(self, row: Mapping[str, float]) -> None:
        """Raises ValueError when the score is not in a row that has everything that this run logs."""
        if self.by not in ("auto", "none", *row):
            raise ValueError(f"keep_best is {self.by!r}, which this run does not log; choose from {', '.join(row)}")

    def _write(self, model: Any, about: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
        partial, whole, old = (self.folder / name for name in (f"{BEST}.partial", BEST, f"{BEST}.old"))
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        model.save_pretrained(partial, best=about)
        if records:
            write_json(partial / "scores.json", records)
        shutil.copyfile(self.folder / RUN, partial / RUN)
        if whole.exists():
            whole.rename(old)
        partial.rename(whole)
        shutil.rmtree(old, ignore_errors=True)


def values_of(checked: Mapping[str, float] | Sequence[Score]) -> dict[str, float]:
    """Values of what was checked, by name; of scores in several feature spaces all but the first name theirs."""
    if isinstance(checked, Mapping):
        return dict(checked)
    values: dict[str, float] = {}
    for score in checked:
        name = score.metric
        values[name if name not in values else f"{name}_{score.protocol.get('features')}"] = score.value
    return values


def deciding(settings: Any) -> Any:
    """Settings as JSON gives them back, without those that only say how often to look, save and tell.

    Those that an older version had not yet are at their defaults.
    """

    def of(plain: Any) -> Any:
        if isinstance(plain, dict):
            looped = plain.get("type") == "Loop"
            return {name: of(value) for name, value in plain.items() if not looped or name in DECIDES}
        return [of(value) for value in plain] if isinstance(plain, list) else plain

    return of(completed(json.loads(json.dumps(settings))))


def _named(done: int) -> str:
    return f"resume_{done:07d}.safetensors"


def _link(path: Path, to: Path) -> None:
    """A second name for a file; a copy on disks that know no such thing."""
    with replacing(to) as partial:
        partial.unlink(missing_ok=True)  # a copy into it would change whatever file it is a name of
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """`place: old in the folder, new now` for each place where two plain configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            place = f"{where}.{name}" if where else name
            yield from _differences(old.get(name, "nothing"), new.get(name, "nothing"), place)
    elif old != new:
        yield f"{where}: {old} in the folder, {new} now"
