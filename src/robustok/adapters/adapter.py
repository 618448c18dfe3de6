"""A family of other people's models, which reads and writes their checkpoints.

A family of models is a class that derives from `Adapter` and says what is its own:

    class MyTokenizer(Adapter):
        family, kind, config_type = "my-tokenizer", "tokenizer", MyConfig
        layout = Layout(entries=("model",))                               # how its authors wrap the weights
        marks = ("encoder.mine.weight",)                                  # names that no other family has
        table = (("^encoder.mine", "^encoder.ours"),)                     # (theirs, ours)
        def __init__(self, config: MyConfig): ...
        @classmethod
        def config_from_state(cls, state, **fields) -> MyConfig: ...      # sizes from the shapes, the rest from fields

It gets `from_checkpoint`, `from_state`, `to_state`, `to_checkpoint`, `save_pretrained` and `from_pretrained`. Where the
table depends on the config, it overrides `renames`; where tensors are cut or joined on the way, `ours` and `theirs`,
which are each other's inverse; where a file's name or neighbors tell a field, `fields_beside`.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from robustok.adapters.files import Layout, read_checkpoint, write_checkpoint
from robustok.adapters.published_generators import PublishedGenerator
from robustok.runtime.checkpoint import CONFIG, MODEL, check_weights, read_json, write_json
from robustok.runtime.configs import from_plain, to_plain
from robustok.runtime.places import home
from robustok.runtime.pretrained import Pretrained
from robustok.runtime.renaming import Renames, State, original, renamed
from robustok.runtime.tensor_files import WRAPPERS

A = TypeVar("A", bound="Adapter")
REMEDY = "give the file that belongs to this family and size"
NEVER = "(?!)"  # a regular expression that nothing matches


class Adapter(Pretrained):
    """A network that reads and writes its authors' checkpoints.

    It computes in float32 whatever the file's types are, unless told otherwise, and writes each tensor in the type it
    was read in. A state_dict of it is complete: buffers that are not in it start at zero.
    """

    family: ClassVar[str]
    kind: ClassVar[str]  # "tokenizer" or "generator"
    marks: ClassVar[Sequence[str]]  # regular expressions: a checkpoint of the family has a name like each of them,
    foreign: ClassVar[str] = NEVER  # and none that begins like this
    table: ClassVar[Renames] = ()  # (theirs, ours)
    presets: ClassVar[Mapping[str, PublishedGenerator]] = MappingProxyType({})  # sampling, by name
    prefer: ClassVar[Sequence[str]] = WRAPPERS  # which of several sets of weights in a file are taken
    unused: ClassVar[str] = NEVER  # names (a regular expression) that files may have and nothing here uses
    layout: Layout = Layout()  # as its authors lay out a torch file, or of the file that the weights came from
    unused_tensors: Mapping[str, Tensor] = MappingProxyType({})  # of that file, written back as they came

    @classmethod
    @abstractmethod
    def config_from_state(cls, state: State, *args: Any, **fields: Any) -> Any:
        """The config of weights by their original names; `fields` are those that weights do not tell."""

    @classmethod
    def matches(cls, state: State) -> bool:
        """Tell whether these names are those of a checkpoint of this family."""
        names = "\n".join(state)
        marked = all(re.search(rf"^(?:{mark})$", names, re.MULTILINE) for mark in cls.marks)
        return marked and not re.search(rf"^(?:{cls.foreign})", names, re.MULTILINE)

    @classmethod
    def fields_beside(cls, path: Path) -> dict[str, Any]:
        """Fields of the config that the name or the neighbors of a file tell."""
        return {}

    @classmethod
    def renames(cls, config: Any) -> Renames:
        """Pairs of (theirs, ours)."""
        return cls.table

    @classmethod
    def ours(cls, state: State, config: Any) -> dict[str, Tensor]:
        """Weights by our names from weights by theirs."""
        table = cls.renames(config)
        return {renamed(name, table): tensor for name, tensor in state.items()}

    @classmethod
    def theirs(cls, state: State, config: Any) -> dict[str, Tensor]:
        """Weights by their names from weights by ours."""
        table = cls.renames(config)
        return {original(name, table): tensor for name, tensor in state.items()}

    @classmethod
    def from_checkpoint(
        cls: type[A], path: str | Path, *, dtype: torch.dtype | None = torch.float32, **fields: Any
    ) -> A:
        """The model in a published file, in evaluation mode; `dtype` None keeps the file's types.

        `fields` of the config that weights do not tell may be given. Raises ValueError for a file that cannot be read
        or is of another family, and lists the keys that are missing, unexpected or of another shape.
        """
        fields = cls.fields_beside(Path(path)) | fields
        checkpoint = read_checkpoint(path, cls.prefer)
        return cls.from_state(checkpoint.state, layout=checkpoint.layout, source=path, dtype=dtype, **fields)

    @classmethod
    def from_state(
        cls: type[A],
        state: State,
        *,
        layout: Layout | None = None,
        source: str | Path = "this state_dict",
        dtype: torch.dtype | None = torch.float32,
        **fields: Any,
    ) -> A:
        """The model of weights by their original names; it keeps the tensors that have its type, uncopied."""
        if not cls.matches(state):
            found = next((family.family for family in _families() if family.matches(state)), None)
            looks = f"this looks like {found}" if found else f"its keys are like {', '.join(sorted(state)[:3])}"
            raise ValueError(f"{source} is no checkpoint of {cls.family}: {looks}")
        check_fields(fields)
        config = cls.config_from_state(state, **fields)
        config = from_plain(cls.config_type, to_plain(config))  # in which every field has its type
        layout = layout or replace(cls.layout, dtypes={name: tensor.dtype for name, tensor in state.items()})
        return cls._assembled(state, config, layout, source, dtype)

    @classmethod
    def _assembled(
        cls: type[A], state: State, config: Any, layout: Layout, source: str | Path, dtype: torch.dtype | None
    ) -> A:
        with torch.device("meta"):
            model = cls(config)
        unused_tensors = {name: tensor for name, tensor in state.items() if re.search(cls.unused, name)}
        used = {name: tensor for name, tensor in state.items() if name not in unused_tensors}
        complaint = f"{source} is no checkpoint of {cls.family}"
        check_weights(used, cls.theirs(model.state_dict(), config), complaint, REMEDY)
        own = {
            name: w.to(dtype) if dtype and w.is_floating_point() else w for name, w in cls.ours(used, config).items()
        }
        model.load_state_dict(own, strict=True, assign=True)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:  # not in the state_dict
                    setattr(module, name, torch.zeros_like(buffer, device="cpu"))
        model.layout, model.unused_tensors = layout, unused_tensors
        return model.eval()

    def to_state(self) -> dict[str, Tensor]:
        """The weights by their original names, in the order and types of the file that they came from."""
        dtypes = self.layout.dtypes
        state = {**self.theirs(self.state_dict(), self.config), **self.unused_tensors}
        order = [name for name in dtypes if name in state] + [name for name in state if name not in dtypes]
        return {name: state[name].detach().to(dtypes.get(name, state[name].dtype)) for name in order}

    def to_checkpoint(self, path: str | Path) -> None:
        """Write a file that its authors' code loads; untouched weights come out bit by bit as they came in.

        A path that ends in .safetensors gets the flat weights, any other a torch file in the layout that they came in,
        or for a new model the published one.
        """
        write_checkpoint(path, self.to_state(), self.layout)

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `model.safetensors` by the original names and `config.json` with what else is said `about` it."""
        write_json(Path(folder) / CONFIG, self.description() | about)
        write_checkpoint(Path(folder) / MODEL, self._saved_state(), replace(self.layout, prefix=""))

    @classmethod
    def from_pretrained(cls: type[A], folder: str | Path, *, dtype: torch.dtype | None = torch.float32) -> A:
        """The model in a folder that `save_pretrained` wrote. Raises ValueError for anything else that is there."""
        folder = home(folder)
        saved = read_json(folder / CONFIG)
        if not isinstance(saved, dict) or saved.get("family") != cls.family:
            raise ValueError(f"{folder} holds no {cls.family}; give a folder that save_pretrained of one wrote")
        state, layout = read_checkpoint(folder / MODEL)
        known = saved.get("layout", {"entries": [], "prefix": ""})
        layout = replace(layout, entries=tuple(known["entries"]), prefix=known["prefix"])
        config = from_plain(cls.config_type, cls.saved_config(saved["config"]))
        model = cls._assembled(state, config, layout, folder, dtype)
        model.recall(saved)
        return model

    @classmethod
    def saved_config(cls, plain: dict[str, Any]) -> dict[str, Any]:
        """The config of a folder in today's fields, where an earlier version had others."""
        return plain

    def description(self) -> dict[str, Any]:
        layout = {"entries": list(self.layout.entries), "prefix": self.layout.prefix}
        return super().description() | {"family": self.family, "layout": layout}

    def _saved_state(self) -> dict[str, Tensor]:
        """The state that `save_pretrained` writes: the original weights, and what else a family needs to be whole."""
        return self.to_state()


def _families(base: Any = Adapter) -> Iterator[type[Adapter]]:
    """The classes that derive from `base` and are families."""
    for kind in base.__subclasses__():
        yield from [kind] if hasattr(kind, "family") else _families(kind)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a number among the fields of a config that is no size, such as image_size=0."""
    for name, value in fields.items():
        if type(value) is int and value < 1:
            raise ValueError(f"{name} is {value}; it is at least 1, or leave it out")
