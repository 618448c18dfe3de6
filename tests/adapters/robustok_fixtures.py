"""What tests of several families share: tolerances, sequences and full-size key lists."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

PARITY = Path(os.environ.get("ROBUSTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))


def assert_as_published(got: Tensor, io: dict[str, Tensor], meta: dict[str, Any], name: str) -> None:
    """Within the fixture's own tolerance; equal where that is "exact"."""
    tolerance = meta["tensors"][name]["tolerance"]
    exact = {"atol": 0, "rtol": 0}
    torch.testing.assert_close(got.to(io[name].dtype), io[name], **(exact if tolerance == "exact" else tolerance))


def sequence(x: Tensor) -> Tensor:
    """(... c h w) as (... h*w c)."""
    return x.flatten(-2).mT


def grid(x: Tensor) -> Tensor:
    """The inverse of `sequence` for squares."""
    side = round(x.shape[-2] ** 0.5)
    return x.mT.unflatten(-1, (side, side))


def published_keys(fixture: str) -> dict[str, dict[str, Tensor]]:
    """The state_dicts of the full-size models, on the meta device, by the name of their list."""
    lists = sorted((PARITY / fixture).glob("fullsize_keys_*.json"))
    if not lists:
        pytest.skip(
            f"no lists of published keys in {PARITY / fixture}; set ROBUSTOK_PARITY to the folder that holds it"
        )
    return {
        path.stem: {
            name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
            for name, entry in json.loads(path.read_text()).items()
        }
        for path in lists
    }


def weights_file(fixture: str) -> Path:
    path = PARITY / fixture / "weights.safetensors"
    if not path.is_file():
        pytest.skip(f"no parity fixture {path}; set ROBUSTOK_PARITY to the folder that holds {fixture}")
    return path
