"""Trackers by name: TensorBoard's files are read back; wandb and trackio are stand-ins with their documented API."""

import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from robustok.runtime import trackers
from robustok.runtime.checkpoint import read_json
from robustok.runtime.trackers import Trackers, TrackerWarning, check_installed

RED = Image.new("RGB", (4, 2), (255, 0, 0))


class Standin(ModuleType):
    """wandb or trackio, as far as they are used: `init`, `log`, `Image`, `finish` of the module."""

    def __init__(self, name: str, broken: str = "") -> None:
        super().__init__(name)
        self.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
        self.calls: list[tuple[Any, ...]] = []
        self.broken = broken

    def _call(self, what: str, *arguments: Any) -> None:
        self.calls.append((what, *arguments))
        if what == self.broken:
            raise ConnectionError("no network\nat all")

    def init(self, **how: Any) -> None:
        self._call("init", how)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._call("log", values, step)

    def finish(self) -> None:
        self._call("finish")

    def Image(self, image: Image.Image) -> tuple[str, Any]:
        return ("image", image.size)


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Standin:
    standin = Standin(request.param)
    monkeypatch.setitem(sys.modules, request.param, standin)
    monkeypatch.delenv(f"{request.param.upper()}_PROJECT", raising=False)
    return standin


def test_tensorboard_files_hold_what_was_logged_and_a_resumed_run_goes_on(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        for done, steps in ((0, (1, 2, 3)), (2, (3, 4))):
            with Trackers(["tensorboard"], tmp_path, {}, done) as tracked:
                for step in steps:
                    tracked.write(step, {"loss": step + done / 10, "bad": float("nan")})
                tracked.pictures(steps[-1], {"samples": RED})
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    logged = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert logged == [(1, 1.0), (2, 2.0), (3, 3.2), (4, 4.2)]  # the first part's third step is hidden
    (picture,) = [event for event in events.Images("samples") if event.step == 4]
    assert (picture.width, picture.height) == RED.size


def test_a_service_hears_all_and_a_resumed_run_goes_on_in_it(service: Standin, tmp_path: Path):
    folder = tmp_path / "runs" / "tokenizer"
    folder.mkdir(parents=True)
    name: Any = service.__name__
    for done in (0, 7):
        with Trackers([name], folder, {"loop": {"steps": 9}}, done) as tracked:
            tracked.write(done + 1, {"loss": 0.5, "bad": float("inf")})
            tracked.pictures(done + 1, {"samples": RED})
    run = read_json(folder / "tracker.json")["id"]
    started, again = (how for what, *(how, *_) in (c for c in service.calls if c[0] == "init"))
    assert started == again
    assert started["project"] == "robustok"
    assert started["name"] == f"runs/tokenizer/{run}"
    assert started["config"] == {"loop": {"steps": 9}}
    assert started["resume"] == "allow"
    assert started.get("id") == (run if name == "wandb" else None)
    assert [call[0] for call in service.calls] == ["init", "log", "log", "finish"] * 2
    assert service.calls[1] == ("log", {"loss": 0.5}, 1)
    assert service.calls[6] == ("log", {"samples": ("image", (4, 2))}, 8)


def test_a_run_that_starts_afresh_is_another_one(service: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name: Any = service.__name__
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    for _ in range(2):
        Trackers([name], tmp_path, {})
    first, second = (call[1] for call in service.calls)
    assert first["name"] != second["name"]
    assert first["project"] == "mine"


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_warns_once_and_the_others_go_on(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad, good = Standin("wandb", broken), Standin("trackio")
    for module in (bad, good):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def run() -> None:
        with Trackers(["wandb", "trackio"], tmp_path, {}) as tracked:
            for step in (1, 2):
                tracked.write(step, {"loss": 1.0})

    with pytest.warns(TrackerWarning, match=r"^wandb gets no more of this run \(no network\); metrics.jsonl has") as w:
        run()
    assert len(w) == 1
    assert [call[0] for call in good.calls] == ["init", "log", "log", "finish"]
    assert [call[0] for call in bad.calls].count("log") == {"init": 0, "log": 1, "finish": 2}[broken]


def test_a_tracker_that_is_not_installed_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "trackio" else object())
    check_installed(["tensorboard", "wandb"])
    with pytest.raises(
        ValueError, match=r"tracker trackio is not installed; pip install 'robustok\[trackio\]', or leave"
    ):
        check_installed(["wandb", "trackio"])


def test_nobody_is_asked_for_unless_named(tmp_path: Path, service: Standin):
    with Trackers([], tmp_path, {}) as tracked:
        tracked.write(1, {"loss": 1.0})
        tracked.pictures(1, {"samples": RED})
    assert not service.calls
    assert not list(tmp_path.iterdir())
