"""Sampling token by token with the whole step compiled: one graph for all tokens, which on a GPU is a CUDA graph.

A step reads the latest tokens, predicts the next ones, guides, draws and writes them, all in static memory and at a
position that is a tensor, so that nothing is compiled anew from token to token and nothing waits for the GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from robustok.generators.protocol import Predictor
from robustok.generators.static_memory import StaticMemory
from robustok.shapes import Labels, TokenMask, Tokens

FILL = 4  # a batch is filled up to a size that a step was compiled for, if that is at most so many times its own
GRAPHS = 256  # of all models, batch sizes and settings in a process; torch stops at 8
DrawNext: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # `sampling.draw_next`
_memories: WeakKeyDictionary[Any, StaticMemory] = WeakKeyDictionary()


def can_compile(generator: object) -> bool:
    """True for a generator that predicts one token at a time in static memory."""
    return hasattr(generator, "static_predictor")


def memory_of(generator: object) -> StaticMemory:
    """What a generator is sampled in, as long as it lives. Raises ValueError for one that cannot be compiled."""
    if not can_compile(generator):
        raise ValueError(
            f"a {type(generator).__name__} cannot be compiled for sampling: that is for models that predict one token "
            "at a time (RAR, LlamaGen, robustok's own of their kinds); sample without compile"
        )
    return _memories.setdefault(generator, StaticMemory())


class Rows(NamedTuple):
    """Images of a batch: their labels (b), which of their tokens (b n) are kept, and uniform numbers for the others."""

    labels: Labels
    keep: TokenMask
    tokens: Tokens
    uniform: Float[Tensor, "b n"]


@dataclass(frozen=True)
class _Draws:
    """What a step reads and writes beside the generator's own memory, everything in place."""

    tokens: Tensor  # (b n), those that are kept from the start
    keep: Tensor  # (b n)
    uniform: Tensor  # (b n)
    scales: Tensor  # (n) of guidance
    temperature: Tensor  # (1)
    place: Tensor  # (1) of the token that is drawn next
    finite: Tensor  # () whether all probabilities were


def compiled_batch(
    generator: Any,
    rows: Rows,
    scales: list[float],
    temperature: float,
    draw_next: DrawNext,
    guided: bool,
    backend: str,
) -> tuple[Tokens, Bool[Tensor, ""]]:
    """Tokens (b n) and whether all was finite; every token is predicted, also where it is kept, one at a time.

    Where it is `guided`, both halves are predicted throughout. Raises ValueError where the step cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    memory, b, device = memory_of(generator), len(rows.labels), rows.labels.device
    size = min((size for size in memory.sizes if b <= size <= FILL * b), default=b)
    labels, keep, tokens, uniform = (F.pad(part, (0, 0) * (part.ndim - 1) + (0, size - b)) for part in rows)
    both = torch.cat([labels, torch.full_like(labels, generator.null_class)]) if guided else labels
    predict, ahead = generator.static_predictor(both, memory)
    values = _Draws(
        tokens,
        keep,
        uniform,
        torch.tensor(scales, dtype=torch.float32, device=device),
        torch.tensor([temperature], dtype=torch.float32, device=device),
        torch.zeros(1, dtype=torch.long, device=device),
        torch.ones((), dtype=torch.bool, device=device),
    )
    draws = _Draws(**{name: memory.keep(name, value) for name, value in vars(values).items()})
    try:
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            for place in range(len(scales)):
                ahead(place)
                step = _compiled(backend, device.type) if place else _step
                step(predict, draws, draw_next, guided, first=place == 0)
    except TorchDynamoException as error:
        said = " ".join(str(error).strip().splitlines()[:2])  # who raised, and what
        raise ValueError(
            f"a step of a {type(generator).__name__} could not be compiled by {backend} ({said}); sample without "
            "compile"
        ) from error
    memory.sizes.add(size)
    return draws.tokens[:b].clone(), draws.finite


def _step(predict: Predictor, draws: _Draws, draw_next: DrawNext, guided: bool, first: bool) -> None:
    """Draw one token of every image."""
    place = draws.place
    latest = None if first else draws.tokens.index_select(1, place - 1).repeat(2 if guided else 1, 1)
    numbers, scale = draws.uniform.index_select(1, place), draws.scales.index_select(0, place)
    drawn, finite = draw_next(predict(latest), numbers, scale, draws.temperature)
    draws.finite.logical_and_(finite)
    here = draws.tokens.index_select(1, place)
    draws.tokens.index_copy_(1, place, torch.where(draws.keep.index_select(1, place), here, drawn))
    place.add_(1)


@cache
def _compiled(backend: str, device: str) -> Callable[..., None]:
    """The step as one graph; by inductor on a GPU as a CUDA graph, which is started anew at every token."""
    mode = "reduce-overhead" if backend == "inductor" and device == "cuda" else None
    step = torch.compile(_step, backend=backend, mode=mode, fullgraph=True, dynamic=False)
    if mode is None:
        return step

    def replayed(*values: Any, **how: Any) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step(*values, **how)

    return replayed
