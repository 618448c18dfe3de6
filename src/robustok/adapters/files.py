"""Other people's checkpoints: read without running their code, renamed there and back, written as they were.

A family of models is a class that derives from `Adapter` and says what is its own:

    class MyTokenizer(Adapter):
        family, kind, config_type = "my-tokenizer", "tokenizer", MyConfig
        published = Layout(entries=("model",))                      # how its authors wrap the weights
        def __init__(self, config: MyConfig): ...
        @staticmethod
        def fits(state) -> bool: ...                                # by names that no other family has
        @classmethod
        def configured(cls, state, **fields) -> MyConfig: ...       # sizes from the shapes, the rest from fields
        @classmethod
        def renames(cls, config) -> Renames: ...                    # (theirs, ours) pairs

It gets `from_checkpoint`, `from_state`, `to_state`, `to_checkpoint`, `save_pretrained` and `from_pretrained`. Where
tensors are cut or joined on the way, it overrides `ours` and `theirs`, which are each other's inverse.
"""

import argparse
import pickle
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustok.generators.trained_on import recall, told
from robustok.runtime.checkpoint import CONFIG, MODEL, read_json, replacing, trouble, write_json
from robustok.runtime.configs import from_plain, to_plain
from robustok.runtime.words import reason

State: TypeAlias = Mapping[str, Tensor]
A = TypeVar("A", bound="Adapter")
Renames: TypeAlias = Sequence[tuple[str, str]]  # (theirs, ours), see `renamed`

WRAPPERS = ("model", "ema", "model_ema", "module", "state_dict")  # under which files keep weights, in order of choice
PREFIXES = ("module.", "_orig_mod.")  # that wrapping and compiling a model put before every name
MASKS = ("attn_bias_for_masking",)  # of attention (VAR): minus infinity is meant


@dataclass(frozen=True)
class Layout:
    """How a file keeps its weights, beside their names."""

    entries: tuple[str, ...] = ()  # top-level keys that hold them, the one that is read first; none: they lie flat
    prefix: str = ""  # before every name
    chosen: str | None = None  # of several sets of weights in a file, the key of those that were read
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of each tensor, in the file's order


class Checkpoint(NamedTuple):
    """What `read_checkpoint` finds."""

    state: dict[str, Tensor]  # by the original names, without a prefix; mapped from the file, not yet read
    layout: Layout


class Published(NamedTuple):
    """What the authors of a generator say of it: published, not reproduced here."""

    weights: str  # where they are: owner/repository:file on the Hugging Face hub
    sampling: Any  # how they sample it
    gfid: float | None  # the gFID that they report for that, on ImageNet at 256 pixels


def read_checkpoint(path: str | Path, prefer: Sequence[str] = WRAPPERS, *, finite: bool = True) -> Checkpoint:
    """The weights in a safetensors or torch file. No code of the file runs.

    Of several sets of weights in one file, that under the earliest key of `prefer` is taken. Raises ValueError, in one
    line, for a file that is missing, damaged or something else, that needs code to be read, or that holds NaN or
    infinity (unless `finite` is false: then no number is read).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a safetensors or torch file of weights")
    state, entries, several = _unwrapped(_read(path), prefer, path)
    prefix = ""
    while found := next((p for p in PREFIXES if all(name.startswith(prefix + p) for name in state)), None):
        prefix += found
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if name not in MASKS and not _finite(tensor):
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


def renamed(name: str, table: Renames) -> str:
    """Our name for theirs: each pair of the table replaces theirs by ours, one pair after the other.

    A side is some whole parts of a dotted name; `*` stands for a number, the same on both sides in the same order, and
    `^` in front for the start of the name: `("^down.*.block.*.", "^levels.*.blocks.*.")`.
    """
    for pattern, ours in _patterns(tuple(table), False):
        name = pattern.sub(ours, name)
    return name


def original(name: str, table: Renames) -> str:
    """Their name for ours: the inverse of `renamed`, the pairs in reverse."""
    for pattern, theirs in _patterns(tuple(table), True):
        name = pattern.sub(theirs, name)
    return name


@cache
def _patterns(table: Renames, backward: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    """What each pair looks for and what it puts there, in the order of use."""
    pairs = [(ours, theirs) for theirs, ours in reversed(table)] if backward else table
    return tuple((_pattern(old), _replacement(new)) for old, new in pairs)


def _pattern(side: str) -> re.Pattern[str]:
    start = "^" if side.startswith("^") else r"(?:^|(?<=\.))"
    return re.compile(start + re.escape(side.strip("^.")).replace(r"\*", r"(\d+)") + r"(?=\.|$)")


def _replacement(side: str) -> str:
    first, *rest = side.strip("^.").split("*")
    return first + "".join(rf"\g<{number}>{part}" for number, part in enumerate(rest, start=1))


def fuse(state: State, parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """A state in which tensors whose names hold each of the `parts` as one dotted part are joined along axis 0."""
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pieces = name.split(".")
        if parts[0] in pieces:
            names = [".".join(part if piece == parts[0] else piece for piece in pieces) for part in parts]
            joined[".".join(whole if piece == parts[0] else piece for piece in pieces)] = torch.cat(
                [state[other] for other in names]
            )
        elif not set(parts) & set(pieces):
            joined[name] = tensor
    return joined


def unfuse(state: State, parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """The inverse of `fuse`: equal pieces, as views."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pieces = name.split(".")
        if whole in pieces:
            for part, value in zip(parts, tensor.chunk(len(parts)), strict=True):
                split[".".join(part if piece == whole else piece for piece in pieces)] = value
        else:
            split[name] = tensor
    return split


class Adapter(nn.Module):
    """A network that reads and writes its authors' checkpoints.

    It computes in float32 whatever the file's types are, unless told otherwise, and writes each tensor in the type it
    was read in. A state_dict of it is complete: buffers that are not in it start at zero.
    """

    family: ClassVar[str]
    kind: ClassVar[Literal["tokenizer", "generator"]]
    trained_on: str | None = None  # of a generator trained further here: the fingerprint of its tokenizer
    class_names: tuple[str, ...] | None = None  # of such a generator: those of the images
    config_type: ClassVar[type]
    published: ClassVar[Layout] = Layout()  # how its authors lay out a torch file
    presets: ClassVar[Mapping[str, Published]] = MappingProxyType({})  # how a generator is sampled, by its name
    prefer: ClassVar[Sequence[str]] = WRAPPERS  # which of several sets of weights in a file are taken
    unused: ClassVar[str] = "(?!)"  # names (a regular expression) that files may have and nothing here uses
    config: Any
    layout: Layout  # of the file that the weights came from
    aside: Mapping[str, Tensor]  # tensors of the file that are unused, written back as they came

    @staticmethod
    @abstractmethod
    def fits(state: State) -> bool:
        """Whether these names and shapes are a checkpoint of this family."""

    @classmethod
    @abstractmethod
    def configured(cls, state: State, *args: Any, **fields: Any) -> Any:
        """The config of weights by their original names; `fields` are those that weights do not tell."""

    @classmethod
    def renames(cls, config: Any) -> Renames:
        """Pairs of (theirs, ours)."""
        return ()

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
        if not cls.fits(state):
            raise ValueError(f"{source} is no checkpoint of {cls.family}: {cls._stranger(state)}")
        check_fields(fields)
        config = cls.configured(state, **fields)
        config = from_plain(cls.config_type, to_plain(config))  # in which every field has its type
        layout = layout or replace(cls.published, dtypes={name: tensor.dtype for name, tensor in state.items()})
        return cls._assembled(state, config, layout, source, dtype)

    @classmethod
    def _assembled(
        cls: type[A], state: State, config: Any, layout: Layout, source: str | Path, dtype: torch.dtype | None
    ) -> A:
        with torch.device("meta"):
            model = cls(config)
        aside = {name: tensor for name, tensor in state.items() if re.search(cls.unused, name)}
        used = {name: tensor for name, tensor in state.items() if name not in aside}
        check_fit(used, cls.theirs(model.state_dict(), config), f"{source} is no checkpoint of {cls.family}")
        own = {name: _cast(tensor, dtype) for name, tensor in cls.ours(used, config).items()}
        model.load_state_dict(own, strict=True, assign=True)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:  # not in the state_dict
                    setattr(module, name, torch.zeros_like(buffer, device="cpu"))
        model.layout, model.aside = layout, aside
        return model.eval()

    @classmethod
    def _stranger(cls, state: State) -> str:
        from robustok.adapters import recognised

        found = recognised(state)
        return f"this looks like {found.family}" if found else f"its keys are like {', '.join(sorted(state)[:3])}"

    def to_state(self) -> dict[str, Tensor]:
        """The weights by their original names, in the order and types of the file that they came from."""
        dtypes = self._layout().dtypes
        state = {**self.theirs(self.state_dict(), self.config), **getattr(self, "aside", {})}
        order = [name for name in dtypes if name in state]
        order += [name for name in state if name not in dtypes]
        return {name: state[name].detach().to(dtypes.get(name, state[name].dtype)) for name in order}

    def to_checkpoint(self, path: str | Path) -> None:
        """Write a file that its authors' code loads; untouched weights come out bit by bit as they came in.

        A path that ends in .safetensors gets the flat weights, any other a torch file in the layout that they came in,
        or for a new model the published one.
        """
        write_checkpoint(path, self.to_state(), self._layout())

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `model.safetensors` by the original names and `config.json` with what else is said `about` it."""
        folder, layout = Path(folder), self._layout()
        described = {"kind": self.kind, "family": self.family, "config": to_plain(self.config)}
        layout_plain = {"entries": list(layout.entries), "prefix": layout.prefix}
        trained = {} if self.trained_on is None else told(self)
        write_json(folder / CONFIG, described | {"layout": layout_plain} | trained | about)
        write_checkpoint(folder / MODEL, self._kept(), replace(layout, prefix=""))

    @classmethod
    def from_pretrained(cls: type[A], folder: str | Path, *, dtype: torch.dtype | None = torch.float32) -> A:
        """The model in a folder that `save_pretrained` wrote. Raises ValueError for anything else that is there."""
        folder = Path(folder)
        saved = read_json(folder / CONFIG)
        if not isinstance(saved, dict) or saved.get("family") != cls.family:
            raise ValueError(f"{folder} holds no {cls.family}; give a folder that save_pretrained of one wrote")
        state, layout = read_checkpoint(folder / MODEL)
        known = saved.get("layout", {"entries": [], "prefix": ""})
        layout = replace(layout, entries=tuple(known["entries"]), prefix=known["prefix"])
        model = cls._assembled(state, from_plain(cls.config_type, saved["config"]), layout, folder, dtype)
        recall(model, saved)
        return model

    def _kept(self) -> dict[str, Tensor]:
        """What `save_pretrained` writes: the original weights, and what else a family needs to be whole."""
        return self.to_state()

    def _layout(self) -> Layout:
        return getattr(self, "layout", self.published)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a number among the fields of a config that is no size, such as image_size=0."""
    for name, value in fields.items():
        if type(value) is int and value < 1:
            raise ValueError(f"{name} is {value}; it is at least 1, or leave it out")


def check_fit(given: State, wanted: State, complaint: str) -> None:
    """Raises ValueError that lists the first of the missing and unexpected keys, and of those of another shape."""
    misfits = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    if any(misfits.values()):
        raise ValueError(
            f"{complaint}: "
            + ", ".join(f"{len(names)} keys {how}{_first(names)}" for how, names in misfits.items() if names)
            + "; give the file that belongs to this family and size"
        )


def _first(names: Sequence[str], count: int = 5) -> str:
    return f" ({', '.join(names[:count])}{', ...' if len(names) > count else ''})"


def sizes(state: State, *needed: str) -> dict[str, torch.Size]:
    """Shapes by name. Raises ValueError that lists which of the `needed` names are not there."""
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(f"{len(missing)} keys missing{_first(missing)}; give a whole checkpoint")
    return {name: tensor.shape for name, tensor in state.items()}


def count(names: Iterable[str], pattern: str) -> int:
    """How many of something there are: 1 + the largest number that the pattern's group finds in the names, else 0."""
    return max((1 + int(match[1]) for name in names if (match := re.match(pattern, name))), default=0)


def _read(path: Path) -> Any:
    """What the file holds, tensors mapped from it where the format allows."""
    with path.open("rb") as file:
        start = file.read(64)
    torch_file = start.startswith((b"PK\x03\x04", b"\x80"))
    if not torch_file:
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} {trouble(path)} ({_line(error)})") from error
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # of arguments: values
            warnings.simplefilter("ignore")  # what torch has to say of foreign pickles
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|class|Type) `?([\w.]+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise ValueError(
            f"{path} is a pickle of more than tensors{what}, whose code was not run; "
            "get it as safetensors, or as a torch file of tensors alone"
        ) from error
    except Exception as error:  # a damaged file can break the reader anywhere
        raise ValueError(
            f"{path} was cut short or damaged ({_line(error)}); copy or download it again, as safetensors or torch file"
        ) from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _unwrapped(held: Any, prefer: Sequence[str], path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
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
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite: the extremes tell it without a copy of the tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # float8, which cannot be compared
        tensor = tensor.float()
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _whole(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, as files need it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
