"""Files that are whole or not there: model folders and resume files, tensors and JSON, never pickles.

Every write goes to a neighbor (`name.partial`), is forced to the disk and then renamed over the old file, so
that whoever kills the process at any moment, or fills the disk, finds the old file or the new one.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustok.runtime.locking import claim
from robustok.runtime.places import PARTIAL, home
from robustok.runtime.words import reason, some

MODEL, CONFIG = "model.safetensors", "config.json"
HASH = "sha256"  # what metadata of our files call the hash of their contents


def write_bytes(path: str | Path, data: bytes) -> None:
    """Put `data` into the file, all of it or none. Raises OSError; the old file then stays."""
    with replacing(Path(path)) as partial:
        partial.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Put JSON into the file, all of it or none. Raises ValueError for NaN and infinity, which JSON lacks."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        remedy = "use finite numbers, strings, lists and dictionaries"
        raise ValueError(f"{path} cannot hold this as JSON: {error}; {remedy}") from error
    write_bytes(path, (text + "\n").encode())


def parse_json(text: str | bytes, **how: Any) -> Any:
    """JSON as Python has it; `how` is as for `json.loads`. Raises ValueError, also for what is nested too deeply."""
    try:
        return json.loads(text, **how)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: str | Path) -> Any:
    """The JSON in the file. Raises ValueError when it is missing or damaged."""
    path = home(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a folder that robustok wrote")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        remedy = "it was cut short or edited, so restore it or write it anew"
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from error


def save_model(folder: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a model folder: `model.safetensors` (weights) and `config.json`."""
    folder = Path(folder)
    write_json(folder / CONFIG, config)
    save_tensors(folder / MODEL, state, {"robustok": "model"})


def load_model(folder: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config of a model folder, whose config says that it is a `kind` if one is asked for.

    Raises ValueError when a file is missing, damaged, of another kind, or holds weights that are not finite.
    """
    folder = home(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give the folder that holds {MODEL} and {CONFIG}")
    config = read_json(folder / CONFIG)
    if kind is not None and config.get("kind") != kind:
        raise ValueError(f"{folder} holds a {config.get('kind', 'model')}, not a {kind}; give the folder of a {kind}")
    state, metadata = _load(folder / MODEL)
    if metadata.get("robustok", "model") != "model":
        raise ValueError(f"{folder / MODEL} is a {metadata['robustok']} file, not a model; save the model again")
    for name, tensor in state.items():
        if not is_finite(tensor):
            raise ValueError(
                f"{name} in {folder / MODEL} holds NaN or infinity: training went wrong before it was saved; "
                "take an earlier save or train again with a lower learning rate"
            )
    return state, config


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Put weights from `source` into a model, all of them and none else. Raises ValueError where they do not fit."""
    complaint = f"the weights in {source} are not those of this model"
    check_weights(state, model.state_dict(), complaint, "weights and config must come from the same model")
    model.load_state_dict(dict(state))


def check_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], complaint: str, remedy: str, *, shapes: bool = True
) -> None:
    """Raises ValueError that lists the first of the missing and unexpected keys, and of those of another shape or kind.

    Weights may be kept in any precision, but not as whole or complex numbers: those are quantized, or something else.
    """
    shared = wanted.keys() & given.keys()
    other = [name for name in wanted if shapes and name in shared and given[name].shape != wanted[name].shape]
    floating = [name for name in wanted if name in shared and wanted[name].is_floating_point()]
    misfits = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}" for name in other
        ],
        "that are no floating-point numbers": [
            f"{name} {str(given[name].dtype).removeprefix('torch.')}"
            for name in floating
            if not given[name].is_floating_point()
        ],
    }
    check_misfits(misfits, complaint, remedy)


def check_misfits(misfits: Mapping[str, Sequence[str]], complaint: str, remedy: str) -> None:
    """Raises ValueError for any keys, listed by what is wrong with them."""
    if any(misfits.values()):
        listed = (f"{len(keys)} keys {how} ({some(keys)})" for how, keys in misfits.items() if keys)
        raise ValueError(f"{complaint}: {', '.join(listed)}; {remedy}")


def is_finite(tensor: Tensor) -> bool:
    """True when no number is NaN or infinite: the extremes tell it without a copy of the tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # float8, which cannot be compared
        tensor = tensor.float()
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


def fingerprint(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> str:
    """16 hex digits that change with any name, shape, type or byte of the tensors.

    With a `config` (JSON values), which tells shapes and types, they change with it, the names and the bytes.
    """
    digest = hashlib.sha256(b"" if config is None else json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        about = name if config is not None else f"{name} {tuple(tensor.shape)} {tensor.dtype} "
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(about.encode() + raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def short_hash(*parts: bytes | bytearray) -> str:
    """The start of the SHA-256 of all parts one after another: a name for contents."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def save_resume(path: str | Path, state: Any) -> None:
    """Write nested dicts (string or integer keys), lists and tuples of tensors, numbers, strings, bools and
    None into one safetensors file: the tensors flat, the structure as JSON in its metadata.

    Raises ValueError for anything else, naming where it was, and OSError when the disk fails.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors)
    save_tensors(path, tensors, {"robustok": "resume", "structure": json.dumps(structure)})


def load_resume(path: str | Path) -> Any:
    """The state that `save_resume` was given, every dtype as it was, tensors on the CPU. Raises ValueError."""
    tensors, metadata = _load(Path(path))
    if metadata.get("robustok") != "resume":
        raise ValueError(f"{path} is not a resume file; give the resume.safetensors of a run folder")
    try:
        return _restore(parse_json(metadata["structure"]), tensors)
    except (KeyError, ValueError) as error:  # of an older version, without a hash
        raise ValueError(f"{path} is damaged ({reason(error)}); restore it") from error


def _flatten(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The structure of `value` as JSON; its tensors go to `tensors` under numbered names."""
    match value:
        case Tensor():
            name = f"{len(tensors)}{where}"
            tensors[name] = value
            return {"tensor": name}
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            entries = [_flatten(entry, f"{where}.{i}", tensors) for i, entry in enumerate(value)]
            return {"tuple": entries} if isinstance(value, tuple) else entries
        case Mapping() if all(type(key) in (str, int) for key in value):
            return {"dict": [[key, _flatten(entry, f"{where}.{key}", tensors)] for key, entry in value.items()]}
    raise ValueError(
        f"state{where} is a {type(value).__name__}; a resume file holds tensors, numbers, strings, bools, "
        "None, and lists, tuples and dicts (string or integer keys) of them"
    )


def _restore(structure: Any, tensors: dict[str, Tensor]) -> Any:
    match structure:
        case list():
            return [_restore(entry, tensors) for entry in structure]
        case {"tensor": name}:
            return tensors[name]
        case {"tuple": entries}:
            return tuple(_restore(entry, tensors) for entry in entries)
        case {"dict": entries}:
            return {key: _restore(entry, tensors) for key, entry in entries}
    return structure


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, all of it or none, with a hash for `is_whole`; equal contents make equal files.

    Tensors are copied if they are a part of their memory or share it with another: safetensors refuses those.
    """
    own, owners = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        own[name] = tensor.detach().cpu().contiguous()
        memory = own[name].untyped_storage()
        if memory.nbytes() != own[name].nbytes or memory.data_ptr() in owners:
            own[name] = own[name].clone()
        owners.add(memory.data_ptr())
    told = {**(metadata or {}), HASH: contents_hash(own, metadata)}
    with replacing(Path(path)) as partial:
        save_file(own, partial, told)
        _sort_metadata(partial)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in a header in order, which safetensors writes in any."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= size, "a header is JSON without spaces, filled up at its end"
        file.seek(8)
        file.write(text.ljust(size))


def contents_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and over what else a file tells of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    for entry in sorted((metadata or {}).items()):
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def is_whole(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Tell whether a file's contents fit its hash. Those of older versions have none, and are believed."""
    others = {name: value for name, value in metadata.items() if name != HASH}
    return HASH not in metadata or metadata[HASH] == contents_hash(tensors, others)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a folder that robustok wrote")
    try:
        tensors, metadata = stored_tensors(path)
    except SafetensorError as error:
        raise ValueError(f"{path} {trouble(path)} ({error})") from error
    if not is_whole(tensors, metadata):
        raise ValueError(f"{path} is damaged, or was edited: its contents do not fit the hash in it; copy it again")
    return tensors, metadata


def stored_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, mapped from the file, and metadata of a safetensors file. Raises SafetensorError."""
    with safe_open(home(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def trouble(path: Path) -> str:
    """Words on a file that safetensors cannot read, and what to do."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":  # where the header of a safetensors file begins
        return "was cut short or damaged; copy or download it again"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "is a pickle, which can run code when opened; convert it to safetensors first"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer instead of the file; run `git lfs pull`"
    return "is not a safetensors file; give one that robustok wrote"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbor to write to, which becomes `path` when the block ends well and disappears otherwise.

    Whoever writes the same file meanwhile waits for its turn, or half of one would become the other's.
    """
    path = home(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        if path.exists() and not path.is_file():  # /dev/null would become a file
            raise OSError(errno.EISDIR if path.is_dir() else errno.EEXIST, "there is no file that could be replaced")
        with claim(partial, wait=True):
            try:
                partial.unlink(missing_ok=True)  # of one who was killed
                partial.touch()
                mode = partial.stat().st_mode
                yield partial
                partial.chmod(mode)  # safetensors hides its files from everybody else
                _to_disk(partial)
                os.replace(partial, path)
                _to_disk(path.parent)  # the rename itself
            finally:
                partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        kept = "the file there is unchanged" if path.exists() else "nothing was written"
        told = f"could not write {path} ({reason(error)}); {kept}; make room or choose another folder, then start again"
        number = getattr(error, "errno", None)  # safetensors tells none
        raise (OSError(told) if number is None else OSError(number, told)) from error


def _to_disk(path: Path) -> None:
    """Force a file, or the names in a folder, out of the system's cache."""
    if os.name == "nt" and path.is_dir():  # Windows cannot
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
