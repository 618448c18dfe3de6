"""A run's metrics in TensorBoard, Weights & Biases or Trackio besides `metrics.jsonl`; each only if it is named.

The file stays the source of truth. A tracker that fails, for want of a network say, is left out with a warning; it
never stops a run. A run that goes on after a stop goes on in the same place.
"""

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.words import reason

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
ID = "tracker.json"  # names the run to services that continue it


class TrackerWarning(UserWarning):
    """A tracker failed and was left out."""


class Tracker(NamedTuple):
    """The calls that a tracker takes."""

    write: Callable[[int, Mapping[str, float]], object]  # step and values
    picture: Callable[[int, str, Image.Image], object]  # step, name and image
    close: Callable[[], object]


def tensorboard(folder: Path, done: int) -> Tracker:
    """Event files in `folder/tensorboard`; of an earlier part of the run, what came after `done` is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1, flush_secs=30)
    return Tracker(
        lambda step, values: [writer.add_scalar(name, value, step) for name, value in values.items()],
        lambda step, name, image: writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC"),
        writer.close,
    )


def service(name: Literal["wandb", "trackio"], folder: Path, config: Mapping[str, Any], done: int) -> Tracker:
    """A run of wandb or trackio, which offer the same functions.

    The project is robustok unless WANDB_PROJECT or TRACKIO_PROJECT says otherwise.
    """
    module: Any = import_module(name)
    if not done or not (folder / ID).is_file():
        write_json(folder / ID, {"id": uuid.uuid4().hex[:8]})
    run = str(read_json(folder / ID)["id"])
    called = "/".join([*folder.resolve().parts[-2:], run])
    how: dict[str, Any] = {"id": run, "dir": str(folder)} if name == "wandb" else {}
    project = os.environ.get(f"{name.upper()}_PROJECT", "robustok")
    module.init(project=project, name=called, config=dict(config), resume="allow", **how)
    return Tracker(
        lambda step, values: module.log(values, step=step),
        lambda step, label, image: module.log({label: module.Image(image)}, step=step),
        module.finish,
    )


class Trackers:
    """Some trackers, or none; each hears everything until it fails.

    `config` is what a tracker shows of the run, `done` how many steps an earlier part of it took.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, config: Mapping[str, Any], done: int = 0) -> None:
        self._trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                own = tensorboard(folder, done) if name == "tensorboard" else service(name, folder, config, done)
                self._trackers[name] = own
            except Exception as error:  # whatever a stranger's code raises
                _warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Tell them a row of `metrics.jsonl`."""
        finite = {name: float(value) for name, value in values.items() if np.isfinite(value)}
        self._all(lambda tracker: tracker.write(step, finite))

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Show them previews."""
        self._all(lambda tracker: [tracker.picture(step, name, image) for name, image in pictures.items()])

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *error: object) -> None:
        self._all(lambda tracker: tracker.close())

    def _all(self, tell: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # whatever a stranger's code raises
                del self._trackers[name]
                _warn(name, error)


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raises ValueError, before any work, for a tracker that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"the tracker {name} is not installed; pip install 'robustok[{name}]', or leave it out")


def _warn(name: str, error: Exception) -> None:
    text = f"{name} gets no more of this run ({reason(error)}); metrics.jsonl has all"
    warnings.warn(text, TrackerWarning, stacklevel=3)
