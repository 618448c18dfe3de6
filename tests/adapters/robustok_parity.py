"""What the tests of several families share: full-size names, and files there and back."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustok.adapters.files import Adapter

PARITY = Path(os.environ.get("ROBUSTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))


def stored(name: str) -> dict[str, Tensor]:
    """A fixture's weights in the types of its file."""
    path = PARITY / name / "weights.safetensors"
    if not path.is_file():
        pytest.skip(f"no parity fixture {path}; set ROBUSTOK_PARITY to the folder that holds {name}")
    return load_file(path)


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
