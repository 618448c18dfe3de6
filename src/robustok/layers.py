"""The network parts that tokenizers and generators share: transformer blocks and what they are made of.

A sequence is (b n c): b sequences of n positions, c channels wide. Everything is pre-norm and has no dropout,
so a forward pass draws no random numbers.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Sequence = Float[Tensor, "b n c"]
M = TypeVar("M", bound=nn.Module)
Heads = Float[Tensor, "b heads _ e"]  # e channels per head


def in_float32(module: M) -> M:
    """The module, or where weights are in half or double precision a copy of it with these in float32."""
    if not _half(module) and all(weight.dtype != torch.float64 for weight in module.parameters()):
        return module
    whole = copy.deepcopy(module)
    for part in whole.modules():
        for weight in part.parameters(recurse=False):
            if weight.is_floating_point():
                weight.data = weight.data.float()
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.float())
    return whole


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode for the while: no dropout, no codebook that learns from what is scored."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    modes = [(part, part.training) for part in parts if hasattr(part, "training")]  # frozen by TorchScript: none
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_float32(module: object) -> None:
    """Raises ValueError for a module with weights in half precision, which cannot take float32."""
    if isinstance(module, nn.Module) and (kinds := _half(module)):
        raise ValueError(
            f"a {type(module).__name__} in {', '.join(sorted(kinds))} takes no float32, in which all is computed here; "
            "give it as model.to(torch.float32)"
        )


def precision(model: object) -> str:
    """The number format that a model computes in here: autocast's where that is on for its device, else its weights'.

    It moves scores, so it belongs into their protocol.
    """
    kind = torch.device(getattr(model, "device", "cpu")).type
    if torch.is_autocast_enabled(kind):
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    found = next((str(w.dtype).removeprefix("torch.") for w in weights if w.is_floating_point()), "float32")
    products = torch.get_float32_matmul_precision()
    return found if found != "float32" or products == "highest" else f"float32, matrix products {products}"


def _half(module: nn.Module) -> set[str]:
    tensors = (*module.parameters(), *module.buffers())
    return {str(t.dtype) for t in tensors if t.is_floating_point() and t.itemsize < 4}


class KVCache:
    """Keys and values of the positions so far, for `length` positions of every image at most.

    On a GPU the memory is taken once. On a CPU it is taken for some `STEP` positions more whenever it is full. Plain
    products there are with all of it, what is still empty with weights of zero: with a part they take twice as long.
    """

    STEP = 64

    def __init__(self, length: int) -> None:
        self.length, self.filled, self.room = length, 0, 0
        self._keys = self._values = torch.empty(0)

    def attend(self, queries: Heads, keys: Heads, values: Heads, *, causal: bool, scale: float | None = None) -> Heads:
        """What queries gather from all positions, the given ones last, whose keys and values are (b heads n e)."""
        cpu, start, self.filled = keys.device.type == "cpu", self.filled, self.filled + keys.shape[2]
        assert self.filled <= self.length, "more positions than the cache was made for"
        if self.filled > self.room:
            self._take_room(keys, -(-self.length // max(1, round(self.length / self.STEP))) if cpu else self.length)
        self._keys[:, :, start : self.filled] = keys
        self._values[:, :, start : self.filled] = values
        if _in_products(queries) or (cpu and causal and start and queries.shape[2] > 1):
            return _plain_attention(queries, self._keys, self._values, self.filled, causal, scale)
        here = slice(self.filled)
        return attend(queries, self._keys[:, :, here], self._values[:, :, here], causal=causal, scale=scale)

    def following(self, n: int) -> slice | Tensor:
        """The n positions that are read next."""
        return slice(self.filled, self.filled + n)

    def _take_room(self, like: Heads, step: int) -> None:
        """Memory for as many steps as are filled now: equal ones, so that none is for a last position alone."""
        b, h, _, e = like.shape
        former, self.room = (self._keys, self._values, self.room), -(-self.filled // step) * step
        self._keys, self._values = (like.new_zeros(b, h, self.room, e) for _ in range(2))
        if former[2]:
            self._keys[:, :, : former[2]], self._values[:, :, : former[2]] = former[:2]


def attend(queries: Heads, keys: Heads, values: Heads, *, causal: bool, scale: float | None = None) -> Heads:
    """softmax(q k' / sqrt(e)) v for each head (Vaswani et al. 2017, eq. 1); `scale` in the place of 1 / sqrt(e).

    `causal`: none sees a later position; the queries are the last ones of the positions that have keys. On a CPU some
    take two plain products, not the fused kernel.
    """
    n, m = queries.shape[2], keys.shape[2]
    if _in_products(queries):
        return _plain_attention(queries, keys, values, m, causal, scale)
    mask = torch.ones(n, m, dtype=torch.bool, device=queries.device).tril(m - n) if causal and 1 < n < m else None
    whole = causal and n == m
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=whole, scale=scale)


def _in_products(queries: Heads) -> bool:
    """True for queries on a CPU that two plain products serve faster than torch's fused kernel.

    That is bfloat16, in a quarter of its time, and one query at a time without AMX. With AMX the kernel takes half of
    the products' time for one query, and reads no more keys than there are.
    """
    if queries.device.type != "cpu":
        return False
    return not has_amx() if queries.shape[2] == 1 else queries.dtype == torch.bfloat16


@cache
def has_amx() -> bool:
    """True on a CPU that multiplies tiles of bfloat16 (Intel's AMX); False where torch cannot tell."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("amx_bf16"))


def _plain_attention(
    queries: Heads, keys: Heads, values: Heads, m: int, causal: bool, scale: float | None = None
) -> Heads:
    """Attention by two products; only the first m positions are there, the others weigh nothing."""
    q, k, v = (x.flatten(0, 1) for x in (queries, keys, values))
    n, room = q.shape[1], k.shape[1]
    q = q * (q.shape[2] ** -0.5 if scale is None else scale)
    if causal and n > 1:
        scores = torch.baddbmm(torch.full((n, room), -math.inf, dtype=q.dtype).triu(m - n + 1), q, k.mT)
    else:
        scores = q @ k.mT
        scores[..., m:] = -math.inf
    return (scores.softmax(dim=-1).to(v.dtype) @ v).view_as(queries)


class Rotation(NamedTuple):
    """Cosines and sines by which queries and keys are turned: rotary positions (Su et al. 2021, eq. 34)."""

    cos: Float[Tensor, "*heads n e"]
    sin: Float[Tensor, "*heads n e"]


def rotation(angles: Float[Tensor, "*heads n pairs"]) -> Rotation:
    """By these angles: one for each pair of neighboring channels."""
    angles = angles.repeat_interleave(2, dim=-1)
    return Rotation(angles.cos(), angles.sin())


def axial_angles(places: Float[Tensor, "n axes"], e: int) -> Float[Tensor, "n pairs"]:
    """Angles of rotary positions on several axes, each of which takes an equal part of a head's e channels."""
    per_axis = e // places.shape[1]
    if per_axis * places.shape[1] != e or per_axis % 2:
        raise ValueError(f"a head of {e} channels has no pairs for {places.shape[1]} axes; choose other width or heads")
    frequencies = 10_000 ** -(torch.arange(0, per_axis, 2) / per_axis)
    return (places[:, :, None] * frequencies).flatten(1)


def rotate(x: Heads, by: Rotation) -> Heads:
    """Each pair of neighboring channels turned by its angle."""
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * by.cos + turned * by.sin).to(x.dtype)


Norm = Literal["layer", "rms"]


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang & Sennrich 2019, eq. 4), which does not subtract the mean, in its input's type.

    torch's own takes the slow way, and warns of it, where autocast gives it bfloat16 and its weight is float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def build_norm(kind: Norm, width: int, affine: bool = True) -> nn.Module:
    """LayerNorm or RMSNorm over the last axis, with a learnt gain if `affine`."""
    kinds = {"layer": nn.LayerNorm, "rms": RMSNorm}
    return kinds[kind](width, eps=1e-6, elementwise_affine=affine)


class Attention(nn.Module):
    """Multi-head self-attention; heads 64 wide are the fast ones on a CPU.

    `qk_norm` normalises each head's queries and keys (Dehghani et al. 2023, sec. 2.2).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False, bias: bool = True, norm: Norm = "layer"):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose heads that divide it")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.q_norm = build_norm(norm, width // heads) if qk_norm else nn.Identity()
        self.k_norm = build_norm(norm, width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: Sequence,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        rotation: Rotation | None = None,
        last: bool = False,
    ) -> Float[Tensor, "b _ c"]:
        """What each position gathers from all others, or with `causal` from itself and those before it.

        With a cache the positions of `x` follow those in it. `rotation` is that of the positions of `x`. `last`: only
        what the last one gathers, (b 1 c).
        """
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q = q[:, :, -1:] if last else q
        x = attend(q, k, v, causal=causal) if cache is None else cache.attend(q, k, v, causal=causal)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with a GELU between them, exact or, as DiT has it, approximated with tanh."""

    def __init__(self, width: int, hidden: int, approximate: Literal["none", "tanh"] = "none"):
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Sequence) -> Sequence:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """A gated MLP: silu(a) * b of two linear maps of the input, then a third (Shazeer 2020, eq. 6, with biases)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)  # a, then b
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Sequence) -> Sequence:
        a, b = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(a) * b)


class LayerScale(nn.Module):
    """A learnt gain per channel on a residual branch (Touvron et al. 2021, CaiT, eq. 3)."""

    def __init__(self, width: int, initial: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Sequence) -> Sequence:
        return x * self.gamma


class Modulation(nn.Module):
    """Shifts, scales and gates of adaLN-Zero, `parts` vectors as wide as the condition (Peebles & Xie 2023).

    All start at zero. The caller splits them with `chunk(parts, dim=-1)` and applies them with `modulate`.
    """

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Sequence) -> Float[Tensor, "b n {self.parts}*c"]:
        return self.linear(F.silu(condition))


def modulate(x: Sequence, shift: Float[Tensor, "b #n c"], scale: Float[Tensor, "b #n c"]) -> Sequence:
    """`x` scaled by 1 + scale and shifted: zeros leave it alone."""
    return torch.addcmul(x + shift, x, scale)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input.

    `layer_scale` is the starting gain of both branches (None: no gain). A `modulated` block is given with its
    input what its own `modulation` made of a condition, so that equal conditions are computed once: shift,
    scale and gate of the attention, then of the MLP. `last` gives the last position alone, (b 1 c), as is asked of a
    model's last block while it samples: of the others the cache takes keys and values, and nothing else is computed.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        modulated: bool = False,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, qk_norm)
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, round(mlp_ratio * width))
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.modulation = Modulation(width, 6) if modulated else None

    def forward(
        self,
        x: Sequence,
        modulation: Float[Tensor, "b n 6*c"] | None = None,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        rotation: Rotation | None = None,
        last: bool = False,
    ) -> Float[Tensor, "b _ c"]:
        assert (modulation is None) == (self.modulation is None), "modulation goes with a modulated block"
        attention = partial(self.attention, causal=causal, cache=cache, rotation=rotation, last=last)
        if modulation is None:
            branch = self.scale1(attention(self.norm1(x)))
            x = (x[:, -1:] if last else x) + branch
            return x + self.scale2(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        branch = attention(modulate(self.norm1(x), shift1, scale1))
        if last:
            x, gate1, shift2, scale2, gate2 = (part[:, -1:] for part in (x, gate1, shift2, scale2, gate2))
        x = x + gate1 * self.scale1(branch)
        return x + gate2 * self.scale2(self.mlp(modulate(self.norm2(x), shift2, scale2)))


def sincos_positions(rows: int, columns: int, width: int) -> Float[Tensor, "n c"]:
    """Fixed embeddings of a grid in raster order (Vaswani et al. 2017, sec. 3.5, once per axis).

    The first half of the channels tells the row, the second the column; each half is sines, then cosines.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4, as sines and cosines of two axes need; round it up")
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (n, 2)
    angles = grid[:, :, None] * frequencies  # (n, 2, width / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
