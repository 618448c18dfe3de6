"""Checkpoints as their authors lay them out: read without running their code, written as they were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from robustok.runtime.checkpoint import is_finite, parse_json, replacing
from robustok.runtime.renaming import State
from robustok.runtime.tensor_files import WRAPPERS, read_tensor_file, unwrapped
from robustok.runtime.words import reason

PREFIXES = ("module.", "_orig_mod.")  # that wrapping and compiling a model put before every name
MASKS = ("attn_bias_for_masking",)  # of attention (VAR): minus infinity is meant


@dataclass(frozen=True)
class Layout:
    """The way in which a file keeps its weights, beside their names."""

    entries: tuple[str, ...] = ()  # top-level keys that hold them, the one that is read first; none: they lie flat
    prefix: str = ""  # before every name
    chosen: str | None = None  # of several sets of weights in a file, the key of those that were read
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of each tensor, in the file's order


class Checkpoint(NamedTuple):
    """The result of `read_checkpoint`."""

    state: dict[str, Tensor]  # by the original names, without a prefix; mapped from the file, not yet read
    layout: Layout


def settings_beside(path: Path) -> dict[str, Any]:
    """The authors' config.json beside a file of weights; empty where there is none that can be read as an object."""
    try:
        saved = parse_json(path.with_name("config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def read_checkpoint(path: str | Path, prefer: Sequence[str] = WRAPPERS, *, finite: bool = True) -> Checkpoint:
    """The weights in a safetensors or torch file. No code of the file runs.

    Of several sets of weights in one file, that under the earliest key of `prefer` is taken. Raises ValueError, in one
    line, for a file that is missing, damaged or something else, that needs code to be read, or that holds NaN or
    infinity (unless `finite` is false: then no number is read).
    """
    state, entries, several = unwrapped(read_tensor_file(path), prefer, path)
    prefix = ""
    while found := next((p for p in PREFIXES if all(name.startswith(prefix + p) for name in state)), None):
        prefix += found
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if name not in MASKS and not is_finite(tensor):
            raise ValueError(f"{name} in {path} holds NaN or infinity, so it cannot be used; take another save of it")
    chosen = entries[0] if several else None
    return Checkpoint(state, Layout(entries, prefix, chosen, {name: tensor.dtype for name, tensor in state.items()}))


def write_checkpoint(path: str | Path, state: State, layout: Layout) -> None:
    """Write weights, all or nothing: as safetensors if `path` ends so, else as a torch file with the layout's entries.

    Every entry gets the same weights, so that whichever of `model` and `ema` is read they are these. What else the
    original held (optimizer, discriminator, arguments) is not written. Raises OSError when the disk fails.
    """
    path = Path(path)
    whole = {layout.prefix + name: _whole(tensor) for name, tensor in state.items()}
    with replacing(path) as partial:
        if path.suffix == ".safetensors":
            save_file(whole, partial, {"format": "pt"})
            return
        try:
            torch.save(dict.fromkeys(layout.entries, whole) or whole, partial)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(reason(error)) from error


def _whole(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, as files need it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
