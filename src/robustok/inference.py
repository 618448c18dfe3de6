"""Linear maps made ready for many products with few rows, as sampling has them: weights are cast and packed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def packed(model: object, keep: Callable[[str, Tensor], Tensor] | None = None) -> Iterator[None]:
    """A context in which a model's linear maps hold weights as they are multiplied, where no gradients are wanted.

    In autocast's number format, where it is on: it would cast frozen weights at every call, which of a few rows takes
    longer than the product. On a CPU also in the order in which oneDNN reads them, where it is there: 32 rows then take
    two thirds of the time. It is a copy that lives as long as the context, so it is never stale, saved or moved; the
    model's own weights are not touched. What comes out is the same, in float32 but for the last digits.

    For a model that is compiled, `keep` puts what was cast where it stays, by name; weights that need neither cast nor
    packing are multiplied as they are. What is packed is another input of the compiled step in each context.
    """
    prepared: dict[str, nn.Linear] = {}
    if isinstance(model, nn.Module) and not torch.is_grad_enabled():
        linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        prepared = {name: part for name, part in linear.items() if _plain(part) and (keep is None or _changes(part))}
    try:
        for name, part in prepared.items():
            vars(part)["forward"] = _prepared(part, keep, name)
        yield
    finally:
        for part in prepared.values():
            vars(part).pop("forward", None)


def _plain(part: nn.Linear) -> bool:
    """True for a map that is torch's own, not prepared yet, of ordinary tensors, not of parts that processes share."""
    weights = [weight for weight in (part.weight, part.bias) if weight is not None]
    own = type(part).forward is nn.Linear.forward and "forward" not in vars(part)
    return own and all(
        isinstance(weight, nn.Parameter) and type(weight.data) is Tensor and weight.layout == torch.strided
        for weight in weights
    )


def _is_cast(part: nn.Linear) -> bool:
    """True where autocast is on, which casts all but double precision."""
    return torch.is_autocast_enabled(part.weight.device.type) and part.weight.dtype != torch.float64


def _changes(part: nn.Linear) -> bool:
    """True where weights are cast or packed."""
    return _is_cast(part) or (part.weight.device.type == "cpu" and _can_pack(part.weight.dtype))


def _prepared(part: nn.Linear, keep: Callable[[str, Tensor], Tensor] | None, name: str) -> Callable[[Tensor], Tensor]:
    """The map of `part`; of an input in another number format than was prepared for, by `part` as it is."""
    weight: Tensor = part.weight.detach()
    kind, cast = weight.device.type, _is_cast(part)
    if cast:
        weight = weight.to(torch.get_autocast_dtype(kind))
    bias: Tensor | None = None if part.bias is None else part.bias.detach().to(weight.dtype)
    dtype, packs = weight.dtype, kind == "cpu" and _can_pack(weight.dtype)
    if keep is not None and not packs:
        weight, bias = keep(f"{name}.weight", weight), None if bias is None else keep(f"{name}.bias", bias)
    product: Callable[[Tensor], Tensor] = partial(F.linear, weight=weight, bias=bias)
    if packs:
        product = partial(_packed_product, torch.ops.mkldnn._reorder_linear_weight(weight), bias)

    def forward(x: Tensor) -> Tensor:
        if cast and torch.is_autocast_enabled(kind):
            x = x.to(dtype)
        return product(x) if x.dtype == dtype else F.linear(x, part.weight, part.bias)

    return forward


def _packed_product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.robustok.packed_linear(x, weight, bias)


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _like_packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


# Under a name of its own the compiler takes the product as it is: it would ask how oneDNN's own one lies in memory.
_LIBRARY = torch.library.Library("robustok", "FRAGMENT")
_LIBRARY.define("packed_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
for _key in ("CPU", "MkldnnCPU"):
    _LIBRARY.impl("packed_linear", _packed_linear, _key)
torch.library.register_fake("robustok::packed_linear", _like_packed_linear, lib=_LIBRARY)


def _can_pack(dtype: torch.dtype) -> bool:
    """True where oneDNN is there and multiplies this number format."""
    ops = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if not all(hasattr(ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    half = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype == torch.float32 or (dtype in half and hasattr(ops, half[dtype]) and getattr(ops, half[dtype])())
