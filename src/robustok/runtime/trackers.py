"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio; each only if it is named.

The file stays the source of truth. A tracker that fails, for want of a network say, is left out with a warning; it
never stops a run. A run that goes on after a stop goes on in the same place.
"""

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.words import reason

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
ID = "tracker.json"  # names the run to services that continue it


class TrackerWarning(UserWarning):
    """A tracker failed and was left out."""


@runtime_checkable
class Tracker(Protocol):
    """What is asked of a tracker."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def picture(self, step: int, name: str, image: Image.Image) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder/tensorboard`; of an earlier part of the run, what came after `done` is hidden."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1, flush_secs=30)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Service:
    """A run of wandb or trackio, which offer the same functions.

    The project is robustok unless WANDB_PROJECT or TRACKIO_PROJECT says otherwise.
    """

    def __init__(
        self, service: Literal["wandb", "trackio"], folder: Path, config: Mapping[str, Any], done: int
    ) -> None:
        self._service: Any = import_module(service)
        if not done or not (folder / ID).is_file():
            write_json(folder / ID, {"id": uuid.uuid4().hex[:8]})
        run = str(read_json(folder / ID)["id"])
        name = "/".join([*folder.resolve().parts[-2:], run])
        how: dict[str, Any] = {"id": run, "dir": str(folder)} if service == "wandb" else {}
        project = os.environ.get(f"{service.upper()}_PROJECT", "robustok")
        self._service.init(project=project, name=name, config=dict(config), resume="allow", **how)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._service.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._service.log({name: self._service.Image(image)}, step=step)

    def close(self) -> None:
        self._service.finish()


class Trackers:
    """Some trackers, or none; each hears everything until it fails.

    `config` is what a tracker shows of the run, `done` how many steps an earlier part of it took.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, config: Mapping[str, Any], done: int = 0) -> None:
        self._trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._trackers[name] = _opened(name, folder, config, done)
            except Exception as error:  # whatever a stranger's code raises
                _warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Tell them a row of `metrics.jsonl`."""
        finite = {name: float(value) for name, value in values.items() if np.isfinite(value)}
        self._all(lambda tracker: tracker.write(step, finite))

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Show them previews."""
        for name, image in pictures.items():
            self._all(partial(_show, step=step, name=name, image=image))

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all(lambda tracker: tracker.close())

    def _all(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # whatever a stranger's code raises
                del self._trackers[name]
                _warn(name, error)


def _show(tracker: Tracker, *, step: int, name: str, image: Image.Image) -> None:
    tracker.picture(step, name, image)


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raises ValueError, before any work, for a tracker that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"the tracker {name} is not installed; pip install 'robustok[{name}]', or leave it out")


def _opened(name: TrackerName, folder: Path, config: Mapping[str, Any], done: int) -> Tracker:
    match name:
        case "tensorboard":
            return TensorBoard(folder, done)
        case _:
            return Service(name, folder, config, done)


def _warn(name: str, error: Exception) -> None:
    text = f"{name} gets no more of this run ({reason(error)}); metrics.jsonl has all"
    warnings.warn(text, TrackerWarning, stacklevel=3)
