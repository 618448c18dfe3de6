"""What the tests of several families share: fixtures, tolerances, full-size names, and files there and back."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustok.adapters.adapter import Adapter

PARITY = Path(os.environ.get("ROBUSTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))


def weights_file(fixture: str) -> Path:
    path = PARITY / fixture / "weights.safetensors"
    if not path.is_file():
        pytest.skip(f"no parity fixture {path}; set ROBUSTOK_PARITY to the folder that holds {fixture}")
    return path


def stored(fixture: str) -> dict[str, Tensor]:
    """A fixture's weights in the types of its file."""
    return load_file(weights_file(fixture))


def assert_as_published(got: Tensor, io: dict[str, Tensor], meta: dict[str, Any], name: str) -> None:
    """Within the fixture's own tolerance; equal where that is "exact"."""
    tolerance = meta["tensors"][name]["tolerance"]
    exact = {"atol": 0, "rtol": 0}
    torch.testing.assert_close(got.to(io[name].dtype), io[name], **(exact if tolerance == "exact" else tolerance))


def published_pixels(images: Tensor) -> Tensor:
    """Pixels as LlamaGen's and RobusTok's sampling scripts save them: 127.5 x + 128, cut off, not rounded."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)


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


def published_shapes(file: Path) -> dict[str, torch.Size]:
    return {name: torch.Size(entry["shape"]) for name, entry in json.loads(file.read_text()).items()}


def shapes_of(family: type[Adapter], config: Any) -> dict[str, torch.Size]:
    """Shapes by the original names of a model that takes no memory."""
    with torch.device("meta"):
        model = family(config)
    return {name: weight.shape for name, weight in model.to_state().items()}


def check_there_and_back(family: type[Adapter], state: dict[str, Tensor], folder: Path, **fields: Any) -> None:
    """Files are read, and written again bit by bit; so is a folder of ours. Other layouts: `test_files.py`."""
    save_file(state, folder / "flat.safetensors")
    torch.save({"model": state, "steps": 3}, folder / "model.pt")
    family.from_checkpoint(folder / "flat.safetensors", **fields).to_checkpoint(folder / "again.safetensors")
    model = family.from_checkpoint(folder / "model.pt", **fields)
    model.to_checkpoint(folder / "again.pt")
    again = torch.load(folder / "again.pt", weights_only=True)
    assert again.keys() == {"model"}
    assert list(again["model"]) == list(state)
    model.save_pretrained(folder / "saved", trained="not at all")
    loaded = family.from_pretrained(folder / "saved")
    assert loaded.config == model.config
    assert loaded.layout.entries == ("model",)
    assert not loaded.training
    for found in (load_file(folder / "again.safetensors"), again["model"], loaded.to_state()):
        assert found.keys() == state.keys()
        for name, weight in state.items():
            assert found[name].dtype == weight.dtype, name
            assert torch.equal(found[name], weight), name
