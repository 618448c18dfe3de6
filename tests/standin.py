"""A second device without any hardware: `standin` computes as the CPU does, and mixes with it as little as CUDA would.

A tensor on it wraps one on the CPU. What CUDA refuses raises RuntimeError here: operations on tensors of both devices
(numbers of no dimension aside, in pointwise operations alone), tensors of the CPU indexed from the device, the CPU's
generators for what is drawn on the device, `numpy()` without `cpu()`.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import Library
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch

NAME = "standin"
SETUP = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
needed = pytest.mark.skipif(SETUP is None, reason="this torch takes no device that is written in Python; 2.13 does")
aten = torch.ops.aten
ACROSS = (aten.copy_, aten._to_copy, aten._copy_from)  # what may read one device and write another
TAKES_CPU_INDICES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)
TAKES_CPU_NUMBERS = (aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_, aten.lerp, aten.lerp_)
DIRECT = (
    "arange",
    "arange.start",
    "arange.start_step",
    "linspace",
    "eye",
    "eye.m",
    "randperm",
    "randperm.generator",
    "copy_",
)
KEPT: list[Library] = []  # what is registered lives as long as this


class OnStandin(Tensor):
    """A tensor on the device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnStandin":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.inner = inner.detach()
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        """torch does it for no subclass."""
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"OnStandin({self.inner!r})"


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is aten._fused_sdp_choice.default:
        return 0  # the plain way: the fused kernels are the CPU's
    device, found = kwargs.get("device"), list(_tensors((args, tuple(kwargs.values()))))
    here = [tensor for tensor in found if isinstance(tensor, OnStandin)]
    made_here = bool(here) if device is None else torch.device(device).type == NAME
    generator = kwargs.get("generator")
    if generator is not None and made_here and generator.device.type != NAME:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'")
    if 0 < len(here) < len(found):
        _check(func, args, found)
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrapped = {id(tensor.inner): tensor for tensor in here}
    result = func(*_each(OnStandin, _inner, args), **{name: _each(OnStandin, _inner, kwargs[name]) for name in kwargs})
    if _reshapes(func):  # the wrapper, too
        with no_dispatch():
            func(*args, **kwargs)
    assert all(tensor.inner.shape == tensor.shape for tensor in here), f"{func} resizes"
    if device is None and func.overloadpacket in ACROSS:
        made_here = isinstance(args[0], OnStandin)
    return (
        _each(Tensor, lambda t: wrapped[id(t)] if id(t) in wrapped else OnStandin(t), result) if made_here else result
    )


def _check(func: Any, args: Any, found: list[Tensor]) -> None:
    """Raises RuntimeError as CUDA does where devices are mixed."""
    packet = func.overloadpacket
    if packet in ACROSS:
        return
    if packet in TAKES_CPU_INDICES and isinstance(args[0], OnStandin):
        found = [tensor for tensor in found if not any(tensor is index for index in args[1])]
    numbers = torch.Tag.pointwise in func.tags or packet in TAKES_CPU_NUMBERS or packet in TAKES_CPU_INDICES
    declared = zip(func._schema.arguments, args, strict=False)
    written = [value for about, value in declared if about.alias_info and about.alias_info.is_write]
    for tensor in found:
        is_number = numbers and not tensor.ndim and not any(tensor is value for value in written)
        if not isinstance(tensor, OnStandin) and not is_number:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found two devices, {NAME}:0 and cpu! ({func})"
            )


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(kind: type, do: Callable[[Any], Any], value: Any) -> Any:
    """The value with everything of a kind in it changed; torch's own trees take ten times as long."""
    if isinstance(value, list | tuple):
        return type(value)([_each(kind, do, part) for part in value])
    return do(value) if isinstance(value, kind) else value


def _inner(tensor: OnStandin) -> Tensor:
    return tensor.inner


@cache
def _reshapes(func: Any) -> bool:
    return torch.Tag.inplace_view in func.tags


class _Module(getattr(backend_registration, "_DummyBackendModule", object)):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return False  # for pinned memory and the like


def setup() -> str:
    """Make the device known to torch, once in a process; returns its name."""
    if not KEPT:
        SETUP(NAME, _Module())
        library = Library("_", "IMPL")
        library.fallback(_computed_from_nothing, "PrivateUse1")
        library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        sized = Library("aten", "IMPL")  # what torch makes empty and then resizes, and how it copies numbers
        for name in DIRECT:
            packet, _, overload = name.partition(".")
            func = getattr(getattr(aten, packet), overload or "default")
            sized.impl(name, partial(_computed_from_nothing, func), "PrivateUse1")
        KEPT.extend((library, sized))
    return NAME


def _computed_from_nothing(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation that makes tensors on the device of none."""
    return _computed(func, args, kwargs)
