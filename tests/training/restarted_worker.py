"""What torchrun starts in a test: the tiny generator's training, in which process 1 is killed once."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tests.training.tiny import run_generator

from robustok.runtime.distributed import processes, rank
from robustok.training.generator_training import GeneratorStage

folder = Path(sys.argv[1])
step = GeneratorStage.step


def deadly(self: GeneratorStage, batch: Any, number: int) -> dict[str, torch.Tensor]:
    """A step, before the sixth of which process 1 dies as soon as there is a save, the first time round."""
    if number == 5 and rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        while not (folder / "run" / "resume.safetensors").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / f"steps_{rank()}").open("a") as told:
        told.write(f"{number}\n")
    return step(self, batch, number)


GeneratorStage.step = deadly  # type: ignore[method-assign]
torch.set_num_threads(1)
with processes():
    run_generator(folder)
