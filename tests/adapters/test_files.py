"""Checkpoints of every layout, names there and back, and files that are damaged, hostile or of something else."""

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustok.adapters import FAMILIES, recognized
from robustok.adapters.adapter import REMEDY, Adapter
from robustok.adapters.files import Layout, read_checkpoint, write_checkpoint
from robustok.adapters.llamagen_vq import LlamaGenVQ
from robustok.adapters.vqgan import maskgit_renames, taming_renames
from robustok.runtime.checkpoint import check_weights
from robustok.runtime.renaming import State, count_numbered, fuse, original, renamed, unfuse


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    width: int
    name: str = "line"


class Line(Adapter):
    """A linear map, published as `a.0.kernel` in float16."""

    family, kind, config_type = "line", "tokenizer", LineConfig
    layout = Layout(entries=("model",))
    unused, marks, table = "^old$", ("a.0.kernel",), (("a.0.kernel", "map.weight"),)
    counter: Tensor

    def __init__(self, config: LineConfig):
        super().__init__()
        self.config = config
        self.map = nn.Linear(config.width, 2, bias=False)
        self.register_buffer("counter", torch.ones(3), persistent=False)

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> LineConfig:
        return LineConfig(width=state["a.0.kernel"].shape[1], **fields)


STATE = {"a.0.kernel": torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]], dtype=torch.float16)}


def save(held: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(held, path)
    else:
        torch.save(held, path)
    return path


@pytest.mark.parametrize(
    ("held", "entries", "prefix"),
    [
        (STATE, (), ""),
        ({"model": STATE, "optimizer": {"state": {0: 1}}, "steps": 3}, ("model",), ""),
        ({"args": argparse.Namespace(lr=1e-4), "ema": STATE}, ("ema",), ""),
        ({"ema": STATE, "model": {"a.0.kernel": torch.zeros(2, 3)}}, ("model", "ema"), ""),
        ({"module": {"module._orig_mod.a.0.kernel": STATE["a.0.kernel"]}}, ("module",), "module._orig_mod."),
        ({"state_dict": STATE}, ("state_dict",), ""),
    ],
)
def test_layouts_of_torch_files(held, entries, prefix, tmp_path):
    model = Line.from_checkpoint(save(held, tmp_path / "in.pt"))
    assert (model.layout.entries, model.layout.prefix) == (entries, prefix)
    model.to_checkpoint(tmp_path / "out.pt")
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    for entry in entries:
        held_first, out_first = held[entries[0]], out[entry]
        assert list(out_first) == list(held_first)
        assert all(torch.equal(out_first[name], weight) for name, weight in held_first.items())
        assert all(out_first[name].dtype == weight.dtype for name, weight in held_first.items())
    if not entries:
        assert out.keys() == STATE.keys()


def test_which_weights_of_several_are_taken(tmp_path):
    path = save({"model": STATE, "ema": {"a.0.kernel": torch.zeros(2, 3)}}, tmp_path / "both.pt")
    assert read_checkpoint(path).state["a.0.kernel"].any()
    assert not read_checkpoint(path, ("ema",)).state["a.0.kernel"].any()


def test_it_computes_in_float32_and_writes_what_was_read(tmp_path):
    path = save(STATE | {"old": torch.arange(3)}, tmp_path / "in.safetensors")
    model = Line.from_checkpoint(path, name="mine")
    assert model.config == LineConfig(width=3, name="mine")
    assert model.map.weight.dtype == torch.float32
    assert model.map.weight.requires_grad
    assert not model.training
    assert torch.equal(model.counter, torch.zeros(3))  # outside of the state_dict
    model.to_checkpoint(tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    assert {name: weight.dtype for name, weight in out.items()} == {"a.0.kernel": torch.float16, "old": torch.int64}
    assert torch.equal(out["a.0.kernel"], STATE["a.0.kernel"])
    model.map.weight.data += 1
    model.to_checkpoint(path)  # over the file that it was read from
    assert torch.equal(load_file(path)["a.0.kernel"], (STATE["a.0.kernel"].float() + 1).half())
    assert Line.from_checkpoint(path, dtype=None).map.weight.dtype == torch.float16


def test_a_new_model_is_written_as_published(tmp_path):
    Line(LineConfig(width=3)).to_checkpoint(tmp_path / "new.pt")
    out = torch.load(tmp_path / "new.pt", weights_only=True)
    assert {name: weight.dtype for name, weight in out["model"].items()} == {"a.0.kernel": torch.float32}


def test_folders(tmp_path):
    model = Line.from_checkpoint(save({"model": STATE}, tmp_path / "in.pt"))
    model.save_pretrained(tmp_path / "folder", steps=7)
    assert (tmp_path / "folder" / "config.json").read_text().count('"steps": 7') == 1
    loaded = Line.from_pretrained(tmp_path / "folder")
    assert loaded.config == model.config
    assert loaded.layout == model.layout
    with pytest.raises(ValueError, match="folder holds no rar; give a folder that save_pretrained of one wrote"):
        next(family for family in FAMILIES if family.family == "rar").from_pretrained(tmp_path / "folder")


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = save(STATE, tmp_path / "weights.pt")
    before = path.read_bytes()

    def full(*arguments):
        (tmp_path / "weights.pt.partial").write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: no space\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="failed writing file: no space.*the file there is unchanged"):
        write_checkpoint(path, STATE, Layout())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_views_are_written_as_tensors_of_their_own(tmp_path):
    table = torch.randn(6, 4)
    for file in ("views.safetensors", "views.pt"):
        write_checkpoint(tmp_path / file, {"top": table[:2], "bottom": table[2:], "turned": table.T}, Layout())
        state = read_checkpoint(tmp_path / file).state
        assert torch.equal(torch.cat([state["top"], state["bottom"]]), table)
        assert torch.equal(state["turned"], table.T)
        assert (tmp_path / file).stat().st_size < 4000


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("file", ["pickle.pt", "torch.pt", "old.pt", "inside.bin"])
def test_code_in_a_file_does_not_run(file, tmp_path):
    path, trap = tmp_path / file, Hostile(tmp_path / "ran")
    match file:
        case "pickle.pt":
            path.write_bytes(pickle.dumps(trap))
        case "torch.pt":
            torch.save(trap, path)
        case "old.pt":
            torch.save({"model": STATE, "x": trap}, path, _use_new_zipfile_serialization=False)
        case "inside.bin":
            torch.save({"model": STATE, "args": trap}, path)
    with pytest.raises(
        ValueError, match=r"is a pickle of more than tensors( \([\w.]+\))?, whose code was not run"
    ) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def damaged(kind: str, folder: Path) -> Path:
    path = folder / ("file.safetensors" if "safetensors" in kind else "file.pt")
    good = {f"layer{i}": torch.randn(50, 50) for i in range(4)}
    match kind:
        case "missing":
            return path
        case "empty":
            path.write_bytes(b"")
        case "cut safetensors" | "cut torch" | "cut old torch":
            new = "old" not in kind
            save_file(good, path) if "safe" in kind else torch.save(good, path, _use_new_zipfile_serialization=new)
            path.write_bytes(path.read_bytes()[:20000])
        case "text":
            path.write_text("<html>Sign in to download</html>")
        case "lfs":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n")
        case "nan safetensors":
            save_file(good | {"layer2": torch.full((9,), torch.nan, dtype=torch.bfloat16)}, path)
        case "inf":
            torch.save({"model": {"w": torch.tensor([1.0, -torch.inf])}}, path)
        case "tensor":
            torch.save(torch.ones(3), path)
        case "no weights":
            torch.save({"steps": 3, "optimizer": {}}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no file .*; give a safetensors or torch file"),
        ("empty", "is not a safetensors file|was cut short or damaged"),
        ("cut safetensors", "was cut short or damaged.*copy or download it again"),
        ("cut torch", "was cut short or damaged.*copy or download it again"),
        ("cut old torch", "was cut short or damaged.*copy or download it again"),
        ("text", "is not a safetensors file"),
        ("lfs", "is a git-lfs pointer instead of the file; run `git lfs pull`"),
        ("nan safetensors", "layer2 in .* holds NaN or infinity, so it cannot be used; take another save of it"),
        ("inf", "w in .* holds NaN or infinity"),
        ("tensor", "holds a Tensor, and no weights; they are expected flat or under model, ema"),
        ("no weights", "holds a dictionary of steps, optimizer, and no weights; they are expected flat or under model"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(damaged(kind, tmp_path))
    assert "\n" not in str(error.value)


def test_weights_of_another_family_or_size_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"x.pt is no checkpoint of line: its keys are like b.weight"):
        Line.from_checkpoint(save({"b.weight": torch.ones(1)}, tmp_path / "x.pt"))
    rar = {"target_aware_pos_embed": torch.ones(1), "timesteps_embeddings": torch.ones(1)}
    with pytest.raises(ValueError, match="y.pt is no checkpoint of line: this looks like rar"):
        Line.from_checkpoint(save(rar, tmp_path / "y.pt"))
    state = {"a.0.kernel": torch.ones(3, 3), "b": torch.ones(1)}
    message = r"no checkpoint of line: 1 keys unexpected \(b\), 1 keys of another shape \(a.0.kernel \(3, 3\) instead"
    with pytest.raises(ValueError, match=message):
        Line.from_state(state)
    names = {f"n{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(ValueError, match=r"it: 9 keys missing \(n0, n1, n2, n3, n4, and 4 more\); give the file"):
        check_weights({}, names, "it", REMEDY)


def test_renaming():
    table = (("^down.*.block.*", "^levels.*.blocks.*"), ("norm", "scale"), ("up.0", "stairs.1"), ("up.1", "stairs.0"))
    names = {
        "down.0.block.12.norm.weight": "levels.0.blocks.12.scale.weight",
        "mid.down.0.block.1": "mid.down.0.block.1",  # not at the start
        "x.norm1.norm": "x.norm1.scale",  # whole parts alone
        "up.0.x": "stairs.1.x",
        "up.1.x": "stairs.0.x",
        "up.10.x": "up.10.x",
    }
    for theirs, ours in names.items():
        assert renamed(theirs, table) == ours
        assert original(ours, table) == theirs


@pytest.mark.parametrize("table", [LlamaGenVQ.table, taming_renames(5), maskgit_renames(5)])
def test_the_tables_invert(table):
    """Every name that can come of a table's own parts goes there and back, and no two become one."""
    theirs = {theirs.removeprefix("^").replace("*", str(i)) + ".weight" for theirs, _ in table for i in (0, 3)}
    theirs = {f"decoder.{name}" if name.split(".")[0] in ("levels", "mid") else name for name in theirs}
    theirs = {name for name in theirs if "levels" not in name}
    ours = [renamed(name, table) for name in sorted(theirs)]
    assert len(set(ours)) == len(theirs)
    assert [original(name, table) for name in ours] == sorted(theirs)


def test_fuse_and_unfuse():
    state = {f"a.0.{part}.weight": torch.randn(2, 3) for part in "qkv"} | {"a.0.out.weight": torch.randn(2, 3)}
    fused = fuse(state, ("q", "k", "v"), "qkv")
    assert torch.equal(fused["a.0.qkv.weight"], torch.cat([state[f"a.0.{part}.weight"] for part in "qkv"]))
    assert fused.keys() == {"a.0.qkv.weight", "a.0.out.weight"}
    back = unfuse(fused, ("q", "k", "v"), "qkv")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], weight) for name, weight in state.items())


def test_count():
    assert count_numbered(["layers.0.x", "layers.11.x", "head"], r"layers\.(\d+)\.") == 12
    assert count_numbered(["head"], r"layers\.(\d+)\.") == 0


def test_recognised_knows_nothing_of_strangers():
    assert recognized({"b.weight": torch.ones(1)}) is None
