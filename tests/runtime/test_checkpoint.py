import errno
import multiprocessing
import os
import pickle
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustok.runtime import checkpoint
from robustok.runtime.checkpoint import (
    fingerprint,
    load_model,
    load_resume,
    load_weights,
    read_json,
    save_model,
    save_resume,
    save_tensors,
    write_bytes,
    write_json,
)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
]


def same(a: Any, b: Any) -> bool:
    """Equal in structure, types, dtypes, shapes and bits."""
    if isinstance(a, torch.Tensor):
        equal = torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.ndim else a.item() == b.item()
        return a.dtype == b.dtype and a.shape == b.shape and equal
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_resume_file_gives_back_what_it_was_given(tmp_path: Path):
    state = {
        "dtypes": {str(dtype): (torch.arange(6).view(2, 3) % 2).to(dtype) for dtype in DTYPES},
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "not finite": torch.tensor([float("nan"), float("inf")]),
        "optimizer": {"state": {0: {"step": 3}, 1: {}}, "param_groups": [{"betas": (0.9, 0.95), "params": [0, 1]}]},
        "a/b": torch.ones(1),
        "a": {"b": torch.zeros(1), "": torch.ones(2)},
        "numbers": [1, -(2**70), 0.1, float("inf"), float("nan"), True, None, "ümlaut", {}, [], ()],
        "tensor": {"tensor": "a name", "dict": [1], "tuple": [2]},
    }
    save_resume(tmp_path / "resume.safetensors", state)
    assert same(state, load_resume(tmp_path / "resume.safetensors"))


def test_files_are_as_open_to_others_as_the_system_says(tmp_path: Path):
    former = os.umask(0o027)
    try:
        save_model(tmp_path, {"w": torch.ones(2)}, {})
        save_resume(tmp_path / "resume.safetensors", {})
    finally:
        os.umask(former)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("config.json", "model.safetensors", "resume.safetensors"), "0o640"
    )


def test_equal_contents_are_equal_files(tmp_path: Path):
    for name in "abcdef":  # safetensors has the entries of metadata in any order
        save_resume(tmp_path / name, {"weight": torch.ones(2), "é": 3.5, "new\nline": True})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert load_resume(tmp_path / "a")["é"] == 3.5


def test_views_shared_memory_and_channels_last_survive(tmp_path: Path):
    whole = torch.arange(24.0).view(2, 3, 2, 2)
    state = {"all": whole, "again": whole, "view": whole[:, 1], "last": whole.to(memory_format=torch.channels_last)}
    save_resume(tmp_path / "r", state)
    loaded = load_resume(tmp_path / "r")
    assert all(torch.equal(state[name], loaded[name]) for name in state)


def test_what_a_resume_file_cannot_hold_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"state\.stage\.1 is a set; a resume file holds tensors"):
        save_resume(tmp_path / "r", {"stage": [1, {2}]})
    with pytest.raises(ValueError, match=r"state\.stage is a dict; .*string or integer keys"):
        save_resume(tmp_path / "r", {"stage": {(1, 2): 3}})
    assert not list(tmp_path.iterdir())


def test_a_model_folder_is_weights_and_config(tmp_path: Path):
    layer = torch.nn.Linear(2, 3)
    tied = {"a": layer.weight, "b": layer.weight, "bias": layer.bias}
    save_model(tmp_path / "new" / "model", tied, {"type": "Toy", "size": 3})
    state, config = load_model(tmp_path / "new" / "model")
    assert config == {"type": "Toy", "size": 3}
    assert same({name: tensor.detach() for name, tensor in tied.items()}, state)
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path, {"weight": torch.arange(100.0)}, {"type": "Toy"})
    return tmp_path


def break_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def break_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:30])


def break_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def break_half(folder: Path) -> None:
    """As a power cut may leave a file: its length is right, its end are zeros."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))


def break_name(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"weight"', b'"weighs"'))


def break_weights(folder: Path) -> None:
    save_model(folder, {"fine": torch.ones(2), "weight": torch.tensor([1.0, float("nan")])}, {})


def break_kind(folder: Path) -> None:
    save_resume(folder / "model.safetensors", {"weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_truncated, "model.safetensors was cut short or damaged; copy or download it again"),
        (break_header, "model.safetensors was cut short or damaged; copy or download it again"),
        (break_byte, "model.safetensors is damaged, or was edited: its contents do not fit the hash in it; copy it"),
        (break_half, "model.safetensors is damaged, or was edited"),
        (break_name, "model.safetensors is damaged, or was edited"),
        (break_weights, "^weight in .* holds NaN or infinity: .*; take an earlier save or train again"),
        (break_kind, "model.safetensors is a resume file, not a model; save the model again"),
        (lambda f: torch.save({"a": torch.ones(1)}, f / "model.safetensors"), "is a pickle.*convert it to safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps([1] * 99)), "is a pickle"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        (lambda f: (f / "model.safetensors").write_text("<html>404"), "is not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "there is no file .*model.safetensors; give a folder"),
        (lambda f: (f / "config.json").unlink(), "there is no file .*config.json; give a folder"),
        (lambda f: (f / "config.json").write_text('{"type": '), "config.json is not JSON .*; it was cut short"),
    ],
)
def test_a_damaged_model_is_a_one_line_error_that_says_what_to_do(model: Path, damage: Any, message: str):
    damage(model)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_weights_are_read_from_any_precision(tmp_path: Path, dtype: torch.dtype):
    layer = nn.Linear(2, 2)
    save_model(tmp_path, {name: weight.to(dtype) for name, weight in layer.state_dict().items()}, {})
    read = nn.Linear(2, 2)
    load_weights(read, load_model(tmp_path)[0], tmp_path)
    assert read.weight.dtype == torch.float32
    assert torch.equal(read.weight, layer.weight.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype: torch.dtype):
    """torch would round them, or leave half of each number out, without a word."""
    layer = nn.Linear(2, 2)
    state = layer.state_dict() | {"bias": torch.ones(2).to(dtype)}
    with pytest.raises(ValueError, match=r"weights in file .*: 1 keys that are no floating-point numbers \(bias \w+\)"):
        load_weights(layer, state, "file")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_nan_is_found_in_eight_bits(tmp_path: Path, dtype: torch.dtype):
    save_model(tmp_path, {"weight": torch.tensor([1.0, float("nan")]).to(dtype)}, {})
    with pytest.raises(ValueError, match="^weight in .* holds NaN or infinity"):
        load_model(tmp_path)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_resume_file_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: bool):
    """Where the structure names another tensor than there is; files of older versions have no hash that tells."""
    if not hashed:
        monkeypatch.setattr(checkpoint, "HASH", "hash")
    path = tmp_path / "resume.safetensors"
    save_resume(path, {"weight": torch.ones(2)})
    assert torch.equal(load_resume(path)["weight"], torch.ones(2))
    path.write_bytes(path.read_bytes().replace(b'"0.weight":', b'"1.weight":'))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="resume.safetensors is damaged"):
        load_resume(path)


def test_other_files_are_no_resume_files(model: Path):
    with pytest.raises(ValueError, match=r"model.safetensors is not a resume file; give the resume.safetensors"):
        load_resume(model / "model.safetensors")
    with pytest.raises(ValueError, match="there is no folder .*; give the folder that holds model.safetensors"):
        load_model(model / "absent")
    torch.save({"a": 1}, model / "old.pt")
    with pytest.raises(ValueError, match="old.pt is a pickle, which can run code when opened"):
        load_resume(model / "old.pt")


def test_a_strangers_safetensors_file_with_a_config_is_a_model(tmp_path: Path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {})
    assert torch.equal(load_model(tmp_path)[0]["w"], torch.ones(2))


def test_a_model_of_another_kind_is_refused(tmp_path: Path):
    save_model(tmp_path, {"w": torch.ones(2)}, {"kind": "generator"})
    assert load_model(tmp_path, "generator")[1] == {"kind": "generator"}
    with pytest.raises(ValueError, match="holds a generator, not a tokenizer; give the folder of a tokenizer"):
        load_model(tmp_path, "tokenizer")
    write_json(tmp_path / "config.json", {})
    with pytest.raises(ValueError, match="holds a model, not a tokenizer"):
        load_model(tmp_path, "tokenizer")


def test_weights_fit_a_model_exactly_or_not_at_all():
    layer, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    load_weights(layer, other.state_dict(), "a file")
    assert same(dict(layer.state_dict()), dict(other.state_dict()))
    for state, place in (
        ({"weight": torch.ones(3, 2)}, "bias"),
        (other.state_dict() | {"extra": torch.ones(1)}, "extra"),
        (other.state_dict() | {"weight": torch.ones(4, 2)}, r"weight \(4, 2\) instead of \(3, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"a file.*{place}"):
            load_weights(layer, state, "a file")
        assert same(dict(layer.state_dict()), dict(other.state_dict()))


def test_fingerprints_are_those_that_models_and_caches_were_saved_with():
    tensors = {"b.weight": torch.arange(6.0).view(2, 3), "s": torch.tensor([1, 2], dtype=torch.int16)}
    assert fingerprint(tensors | {"a": torch.tensor(True)}) == "4735d479446d7ad6"
    config = {"type": "Toy", "width": 3}
    assert fingerprint(tensors, config) == "8a81b59badd84c17"
    others = [{"b.weight": tensors["b.weight"].T, "s": tensors["s"]}, tensors | {"s": tensors["s"] + 1}]
    assert len({fingerprint(other) for other in (tensors, *others)}) == 3
    assert fingerprint(tensors, config | {"width": 4}) != fingerprint(tensors, config)


def test_json_round_trip_and_refusals(tmp_path: Path):
    write_json(tmp_path / "a" / "scores.json", [{"value": 1.5, "interval": None}])
    assert read_json(tmp_path / "a" / "scores.json") == [{"value": 1.5, "interval": None}]
    for value in (float("nan"), {"a": float("inf")}, {1, 2}):
        with pytest.raises(ValueError, match=r"bad.json cannot hold this as JSON: .*; use finite numbers"):
            write_json(tmp_path / "bad.json", value)
    assert not (tmp_path / "bad.json").exists()


def save_and_die(path: Path, when: str) -> None:
    """Save over a resume file in a process that is killed on the way."""
    rename = os.replace

    def write_half(tensors: Any, partial: Path, metadata: Any) -> None:
        partial.write_bytes(b"\x10" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    def replace(source: Path, target: Path) -> None:
        if when == "after rename":
            rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    patch = pytest.MonkeyPatch()
    if when == "half written":
        patch.setattr(checkpoint, "save_file", write_half)
    patch.setattr(os, "replace", replace)
    save_resume(path, {"step": 2, "weight": torch.zeros(1000)})


@pytest.mark.parametrize("when", ["half written", "before rename", "after rename"])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, when: str):
    path = tmp_path / "resume.safetensors"
    save_resume(path, {"step": 1, "weight": torch.ones(1000)})
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=save_and_die, args=(path, when))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert load_resume(path)["step"] == (2 if when == "after rename" else 1)
    save_resume(path, {"step": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["resume.safetensors"]  # the leftover is gone


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, bytes(50_000)),
        lambda path: save_resume(path, {"weight": torch.zeros(50_000)}),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, write: Callable[[Path], None]):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # larger writes fail, as on a full disk
    try:
        with pytest.raises(OSError, match=r"could not write .*file .*; the file there is unchanged; make room"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_first_write_says_that_nothing_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"No space left on device\); nothing was written; make room") as caught:
        write_bytes(tmp_path / "a.json", b"1")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_run(tmp_path: Path):
    file, sprung = tmp_path / "resume.safetensors", tmp_path / "sprung"
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"model": Trap(sprung)}, file)
        with pytest.raises(ValueError, match="is a pickle, which can run code when opened"):
            load_resume(file)
    assert not sprung.exists()


def test_of_two_who_write_one_file_at_once_each_leaves_it_whole(tmp_path: Path):
    """The one's half is never renamed to be the other's file, and nobody is told of a neighbor that is gone."""
    path = tmp_path / "weights.safetensors"
    state = {"w": torch.arange(200_000)}

    def write(number: int) -> None:
        save_tensors(path, {"w": state["w"] + number})
        assert load_file(path)["w"].diff().eq(1).all()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(40)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
