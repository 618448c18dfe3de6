"""Tensors in other people's files, safetensors or torch: read without running their code, and taken out of wrappers."""

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from robustok.runtime.checkpoint import stored_tensors, trouble
from robustok.runtime.words import reason

WRAPPERS = ("model", "ema", "model_ema", "module", "state_dict")  # under which files keep weights, in order of choice


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file by name, those under `model` or `state_dict` before any others.

    Raises ValueError for a file that is missing, damaged, or holds anything but tensors.
    """
    return unwrapped(read_tensor_file(path), ("model", "state_dict"), path)[0]


def read_tensor_file(path: str | Path, allowed: Sequence[Any] = (argparse.Namespace,)) -> Any:
    """The contents of a safetensors or torch file, tensors mapped from it where the format allows. No code of it runs.

    `allowed` are the types beside tensors and plain values that a torch file may hold. Raises ValueError, in one line,
    for a file that is missing, damaged or something else, or that needs code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a safetensors or torch file")
    with path.open("rb") as file:
        start = file.read(64)
    try:
        if not start.startswith((b"PK\x03\x04", b"\x80")):
            return stored_tensors(path)[0]
        with warnings.catch_warnings(), torch.serialization.safe_globals([*allowed]):
            warnings.simplefilter("ignore")  # what torch has to say of foreign pickles
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except SafetensorError as error:
        raise ValueError(f"{path} {trouble(path)} ({reason(error)})") from error
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|class|Type) `?([\w.]+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise ValueError(
            f"{path} is a pickle of more than tensors{what}, whose code was not run; "
            "get it as safetensors, or as a torch file of tensors alone"
        ) from error
    except Exception as error:  # a damaged file can break the reader anywhere
        why = reason(error)
        raise ValueError(
            f"{path} was cut short or damaged ({why}); copy or download it again, as safetensors or torch file"
        ) from error


def unwrapped(held: Any, prefer: Sequence[str], path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
    """The weights among what a file holds, the keys that hold such weights (theirs first), and if there are others."""
    if _is_state(held):
        return dict(held), (), False
    keys = held if isinstance(held, Mapping) else {}
    states = {key: keys[key] for key in dict.fromkeys([*prefer, *WRAPPERS]) if key in keys and _is_state(keys[key])}
    if not states:
        found = f"a dictionary of {', '.join(map(str, list(keys)[:8]))}" if keys else f"a {type(held).__name__}"
        raise ValueError(f"{path} holds {found}, and no weights; they are expected flat or under {', '.join(WRAPPERS)}")
    state = next(iter(states.values()))
    entries = tuple(key for key, other in states.items() if other.keys() == state.keys())
    return dict(state), entries, len(states) > 1


def _is_state(value: Any) -> bool:
    named = isinstance(value, Mapping) and bool(value)
    return named and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
