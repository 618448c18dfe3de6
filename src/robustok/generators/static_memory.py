"""Memory that stays where it is while tokens are sampled, so that one compiled step, or one CUDA graph, serves all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustok.generators.protocol import Predictor
from robustok.layers import Heads, KVCache, attend, has_amx


class StaticMemory:
    """Tensors by name that keep their addresses from one batch to the next of the same size."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}
        self.sizes: set[int] = set()  # of batches that a step was compiled for

    def keep(self, name: str, value: Tensor) -> Tensor:
        """A copy of the value, where the last one of this name was if that was like it."""
        held = self.held.get(name)
        if held is None or (held.shape, held.dtype, held.device) != (value.shape, value.dtype, value.device):
            with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
                held = self.held[name] = torch.empty_like(value, memory_format=torch.contiguous_format)
            torch._dynamo.mark_static_address(held, guard=False)  # a graph reads it there, rather than copy it first
        return held.copy_(value)

    def caches(self, length: int, depth: int, device: torch.device) -> list["StaticKVCache"]:
        """One for each layer, all of them empty."""
        at = self.keep("at", torch.zeros(1, dtype=torch.long, device=device))
        return [StaticKVCache(length, self, str(i), at) for i in range(depth)]


class StaticKVCache(KVCache):
    """Keys and values of all positions from the start, of which those not yet read weigh nothing.

    On a CPU with AMX they are not read at all: how many are there may be asked without waiting for it.
    Which position is next is told by the tensor `at`, which all caches of a model share, and which `following` moves.
    """

    def __init__(self, length: int, memory: StaticMemory, name: str, at: Tensor) -> None:
        super().__init__(length)
        self.memory, self.name, self.at, self.filled_alone = memory, name, at, reads_filled_alone(at.device)

    def following(self, n: int) -> Tensor:
        """The n positions that are read next."""
        self.at.add_(n)
        return self._latest(n)

    def _latest(self, n: int) -> Tensor:
        return self.at - n + torch.arange(n, device=self.at.device)

    def attend(self, queries: Heads, keys: Heads, values: Heads, *, causal: bool, scale: float | None = None) -> Heads:
        """What queries gather from all positions up to their own, the latest, for which keys and values are given."""
        n, e = keys.shape[2:]
        if not self.filled:
            self.filled, empty = n, keys.new_zeros(*keys.shape[:2], self.length, e)
            self._keys, self._values = (self.memory.keep(f"{kind} {self.name}", empty) for kind in ("keys", "values"))
        latest = self._latest(n)
        self._keys.index_copy_(2, latest, keys)
        self._values.index_copy_(2, latest, values)
        if n == 1 and self.filled_alone:
            return torch.ops.robustok.attend_filled(queries, self._keys, self._values, self.at, scale)
        later = torch.arange(self.length, device=latest.device) > latest[-queries.shape[2] :].unsqueeze(1)
        scores = queries * (e**-0.5 if scale is None else scale) @ self._keys.mT
        return scores.masked_fill(later, -torch.inf).softmax(dim=-1).to(values.dtype) @ self._values


def reads_filled_alone(device: torch.device) -> bool:
    """True where a step may ask how many positions are filled, and attending to these alone is the faster way."""
    return device.type == "cpu" and has_amx()


def _attend_filled(queries: Tensor, keys: Tensor, values: Tensor, filled: Tensor, scale: float | None) -> Tensor:
    here = slice(int(filled))
    return attend(queries, keys[:, :, here], values[:, :, here], causal=False, scale=scale)


# The compiler takes it as it is: written out, its size would change from token to token, and with it the graph.
_LIBRARY = torch.library.Library("robustok", "FRAGMENT")
_LIBRARY.define("attend_filled(Tensor queries, Tensor keys, Tensor values, Tensor filled, float? scale) -> Tensor")
_LIBRARY.impl("attend_filled", _attend_filled, "CPU")
torch.library.register_fake(
    "robustok::attend_filled", lambda queries, *_: queries.new_empty(queries.shape), lib=_LIBRARY
)


class StaticPredictor(NamedTuple):
    """A predictor whose memory is static: after the first token, each is predicted by the same operations."""

    predict: Predictor
    ahead: Callable[[int], None]  # is to be told of every token before it is predicted
