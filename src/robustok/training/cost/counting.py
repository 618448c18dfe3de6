"""What a training step does, counted on tensors without storage: FLOPs, bytes moved, the most bytes alive at once.

The step that is counted is the one that trains, run on torch's meta device, where every operation knows shapes and
types and computes nothing. Attention is counted as the flash kernels do it, and autocast as CUDA does it. FLOPs are
those of matrix products, convolutions and attention, two to a multiply and add, by `torch.utils.flop_counter`'s
formulas; causal attention counts in full, as is usual for a share of peak.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
Kind = Literal["bf16", "tf32", "fp32"]
TOLERATED = 1 + 2**-10  # a new peak is looked at closely once it seems to be so much above the last
# what CUDA's autocast computes in bfloat16 and in float32, as far as robustok calls it
IN_BF16 = {
    F.linear, F.conv2d, F.conv_transpose2d, torch.conv2d, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__,
    torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm, torch.addmm, torch.baddbmm, F.scaled_dot_product_attention,
}  # fmt: skip
IN_FP32 = {
    F.layer_norm, F.group_norm, F.softmax, F.log_softmax, torch.softmax, torch.Tensor.softmax, F.cross_entropy,
    F.mse_loss, F.l1_loss, F.normalize, F.cosine_similarity, F.softplus, torch.cdist, torch.exp, torch.log,
    torch.norm, torch.Tensor.norm, torch.Tensor.pow, torch.Tensor.exp, torch.Tensor.log,
}  # fmt: skip


@dataclass
class Counted:
    """What was counted while some code ran."""

    flops: Counter[Kind] = field(default_factory=Counter)  # by the units of a GPU that would do them
    moved: int = 0  # bytes that the operations read and write, were none of them fused
    peak: int = 0  # most bytes alive at once among what was allocated meanwhile
    operations: int = 0  # how many operations, which on a GPU are about as many kernels


class Counting(TorchDispatchMode):
    """Counts what happens inside `with Counting() as counted`, on the meta device or on any other."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = Counted()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0  # alive, or dead and not yet noticed

    def __enter__(self) -> Counted:
        super().__enter__()
        return self.counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return 1  # nobody knows the value; 1 says that a loss is finite
        outcome = func(*args, **kwargs)
        read, made = list(_tensors((args, *kwargs.values()))), list(_tensors(outcome))
        aliases = [a for a in (returned.alias_info for returned in func._schema.returns) if a is not None]
        if not aliases:  # neither a view nor in place
            for tensor in made:
                self._born(tensor)
        if all(alias.is_write for alias in aliases):  # no view
            self.counted.operations += 1
            self.counted.moved += sum(t.numel() * t.element_size() for t in read + made)
        if count := FLOPS.get(func.overloadpacket):
            self.counted.flops[_kind(func, read[0].dtype)] += count(*args, **kwargs, out_val=outcome)
        return outcome

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata in self._alive and not self._alive[reference.cdata][0].expired():
            return
        self._bytes -= self._alive.pop(reference.cdata, (None, 0))[1]
        self._alive[reference.cdata] = reference, storage.nbytes()
        self._bytes += storage.nbytes()
        if self._bytes > TOLERATED * self.counted.peak:  # only then does it matter what has died
            for dead in [key for key, (weak, _) in self._alive.items() if weak.expired()]:
                self._bytes -= self._alive.pop(dead)[1]
            self.counted.peak = max(self.counted.peak, self._bytes)


def _kind(func: Any, dtype: torch.dtype) -> Kind:
    """What a GPU multiplies by: as PyTorch is set, convolutions in float32 take TF32, and products where allowed."""
    if dtype == torch.bfloat16:
        return "bf16"
    products_too = torch.get_float32_matmul_precision() != "highest"
    return "tf32" if products_too or func.overloadpacket in CONVOLUTIONS else "fp32"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among an operation's arguments or results, which are values and lists of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _tensors(entry)


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


FLOPS = flop_registry | {  # the CPU's kernels too, so that real steps can be counted and compared
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


CONVOLUTIONS = {aten.convolution, aten.convolution_backward, aten._convolution}


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """What is built on the meta device, and run there, behaves as on a GPU that multiplies bfloat16."""
    with (
        mock.patch("torch.autocast", _Autocast),
        mock.patch("torch.optim.AdamW", _HollowAdamW),
        mock.patch("torch.autograd._engine_run_backward", _backward),
        _GpuKernels(),
    ):
        yield


class _HollowAdamW(torch.optim.AdamW):
    """AdamW that has its moments and does not use them: what a step of it moves is known."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"fused": None})  # the fused kernel does not know meta tensors
        self.state.update({w: _moments(w) for group in self.param_groups for w in group["params"]})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


def _moments(weight: Tensor) -> dict[str, Tensor]:
    return {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}


class _Autocast(torch.autocast):
    """Autocast that knows the meta device; its switch is that of the CPU, which checkpointing too turns on again."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


class _GpuKernels(TorchFunctionMode):
    """Casts meta tensors as CUDA's autocast would, and takes flash attention for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") and (func in IN_BF16 or func in IN_FP32):
            to = torch.bfloat16 if func in IN_BF16 else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda t: t.to(to) if _is_cast(t) else t, (args, kwargs))
        if func is F.scaled_dot_product_attention and args[0].is_meta and kwargs.get("attn_mask") is None:
            causal = kwargs.get("is_causal", False)
            return aten._scaled_dot_product_flash_attention(*args[:3], 0.0, causal)[0]
        return func(*args, **kwargs)


RUN_BACKWARD = torch.autograd._engine_run_backward  # type: ignore[attr-defined]


def _backward(*args: Any, **kwargs: Any) -> Any:
    """A backward pass; what it computes again takes the same kernels, though modes are off within torch's functions."""
    with _GpuKernels():
        return RUN_BACKWARD(*args, **kwargs)


def _is_cast(tensor: Tensor) -> bool:
    return tensor.is_meta and tensor.is_floating_point()
