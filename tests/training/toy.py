"""A small stage, its run and its results, and ways to kill and to start processes, for the tests of the loop."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustok.runtime.checkpoint import load_resume, save_model
from robustok.runtime.logging import MetricsLog
from robustok.runtime.seeding import stream
from robustok.training.loop import Loop, Stage, run
from robustok.training.optim import EMA, Optim, Optimizer

LOOP = Loop(steps=12, batch_size=4, seed=3, log_every=3, save_every=4)  # a save falls between two rows


class Toy:
    """A small network with everything that could tell a resumed run from a straight one."""

    def __init__(self, steps: int = LOOP.steps, lr: float = 0.01) -> None:
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Flatten(), nn.Linear(32, 2))
        layers[0].weight.data = layers[0].weight.data.to(memory_format=torch.channels_last)
        self.model = nn.Sequential(*layers)
        self.optimizer = Optimizer(self.model, Optim(lr=lr, weight_decay=0.1, warmup=3), steps)
        self.ema = EMA(self.model, 0.9)

    def step(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        loss = (self.model(batch) - 1).square().mean()
        self.optimizer.backward(loss)
        terms = {"l2": loss.detach()} | self.optimizer.step(step)
        self.ema.update(self.model)
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "ema")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("model", "optimizer", "ema"):
            getattr(self, name).load_state_dict(state[name])


def batches(step: int) -> Tensor:
    return torch.randn(LOOP.batch_size, 3, 4, 4, generator=stream(LOOP.seed, "batch", step))


def train(folder: Path, stage: Stage | None = None, config: Loop = LOOP, **options: Any) -> None:
    run(stage or Toy(), batches, config, folder, name="toy", quiet=True, **options)


def rows(folder: Path) -> list[dict[str, float]]:
    """What was logged, without what the clock says."""
    clock = ("seconds", "images_per_second", "evaluation_share")
    return [{k: v for k, v in row.items() if k not in clock} for row in MetricsLog(folder).rows()]


def final(folder: Path) -> dict[str, Any]:
    """Everything the stage has learnt."""
    state = load_resume(folder / "resume.safetensors")
    assert state["counts"]["done"] == LOOP.steps
    return dict(state["stage"])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


class Constant:
    """Returns given terms; learns nothing."""

    def __init__(self, terms: Callable[[int], dict[str, float]]) -> None:
        self.terms = terms

    def step(self, batch: Any, step: int) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in self.terms(step).items()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Kept:
    """A model of one number."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def save_pretrained(self, folder: Path, **about: Any) -> None:
        save_model(folder, {"value": torch.tensor(self.value)}, {"kind": "toy"} | about)


def ends_at(last: int) -> Any:
    """The batches, of which there is none at step `last`."""

    def make(step: int) -> Tensor:
        if step == last:
            raise ValueError("no more")
        return batches(step)

    return make


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, before: Callable[..., Any], wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """`wrapped`, which calls `before` first when it is called for the `number`th time."""
    calls = [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            before(*arguments, **options)
        return wrapped(*arguments, **options)

    return call


def start(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=target, args=arguments)
    child.start()
    return child
