"""Sampling token by token with the whole step compiled: one graph for all tokens, which on a GPU is a CUDA graph.

A step reads the latest tokens, predicts the next ones, guides, draws and writes them, all in static memory and at a
position that is a tensor, so that nothing is compiled anew from token to token and nothing waits for the GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.generators.protocol import Predictor
from robustok.generators.sampling import Kept, Sampling, draw, guide, probabilities
from robustok.generators.static_memory import StaticMemory
from robustok.shapes import Labels, Tokens

FILL = 4  # a batch is filled up to a size that a step was compiled for, if that is at most so many times its own
_memories: WeakKeyDictionary[Any, StaticMemory] = WeakKeyDictionary()


def can_compile(generator: object) -> bool:
    """True for a generator that predicts one token at a time in static memory."""
    return hasattr(generator, "static_predictor")


def memory_of(generator: object) -> StaticMemory:
    """What a generator is sampled in, as long as it lives. Raises ValueError for one that cannot be compiled."""
    if not can_compile(generator):
        raise ValueError(
            f"a {type(generator).__name__} cannot be compiled for sampling: that is for models that predict one token "
            "at a time (robustok's own, RAR, LlamaGen); sample without compile"
        )
    return _memories.setdefault(generator, StaticMemory())


@dataclass(frozen=True)
class _Draws:
    """What a step reads and writes beside the generator's own memory, everything in place."""

    tokens: Tensor  # (b n), those that are kept from the start
    keep: Tensor  # (b n)
    uniform: Tensor  # (b n)
    scales: Tensor  # (n) of guidance
    temperature: Tensor  # (1)
    place: Tensor  # (1) of the token that is drawn next
    finite: Tensor  # (1) whether all probabilities were


def sample_batch(
    generator: Any,
    labels: Labels,
    config: Sampling,
    scales: list[float],
    uniform: Float[Tensor, "b n"],
    kept: Kept | None,
    backend: str,
) -> Tokens:
    """Tokens (b n) as `sampling` draws them; every token is predicted, also where it is kept, one at a time.

    Both halves are predicted throughout where any scale is not 1. Raises ValueError where the step cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    memory, b = memory_of(generator), len(labels)
    size = min((size for size in memory.sizes if b <= size <= FILL * b), default=b)
    guided = any(scale != 1 for scale in scales)
    rows = F.pad(labels, (0, size - b))
    both = torch.cat([rows, torch.full_like(rows, generator.null_class)]) if guided else rows
    predict, ahead = generator.static_predictor(both, memory)
    keep, tokens = kept or (torch.zeros_like(uniform, dtype=torch.bool), torch.zeros_like(uniform))
    values = {
        "tokens": F.pad(tokens.long(), (0, 0, 0, size - b)),
        "keep": F.pad(keep, (0, 0, 0, size - b)),
        "uniform": F.pad(uniform, (0, 0, 0, size - b)),
        "scales": torch.tensor(scales, dtype=torch.float32, device=labels.device),
        "temperature": torch.tensor([config.temperature], dtype=torch.float32, device=labels.device),
        "place": torch.zeros(1, dtype=torch.long, device=labels.device),
        "finite": torch.ones(1, dtype=torch.bool, device=labels.device),
    }
    draws = _Draws(**{name: memory.keep(name, value) for name, value in values.items()})
    plain = replace(config, temperature=1.0)
    try:
        for place in range(len(scales)):
            ahead(place)
            step = _compiled(backend, labels.device.type) if place else _step
            step(predict, draws, plain, guided, first=place == 0)
    except TorchDynamoException as error:
        raise ValueError(
            f"a step of a {type(generator).__name__} could not be compiled by {backend} "
            f"({str(error).strip().splitlines()[0]}); sample without compile"
        ) from error
    memory.sizes.add(size)
    if not draws.finite:
        raise ValueError("sampling ended in NaN or infinity; use less guidance, a higher temperature, or other weights")
    return draws.tokens[:b].to(labels.dtype, copy=True)


def _step(predict: Predictor, draws: _Draws, config: Sampling, guided: bool, first: bool) -> None:
    """Draw one token of every image."""
    place = draws.place
    latest = None if first else draws.tokens.index_select(1, place - 1).repeat(2 if guided else 1, 1)
    logits = predict(latest).float().flatten(0, 1)
    if guided:
        labelled, unlabelled = logits.chunk(2)
        scale = draws.scales.index_select(0, place)
        logits = torch.where(scale == 1, labelled, guide(labelled, unlabelled, scale))
    p = probabilities(logits / draws.temperature, config)
    draws.finite.logical_and_(p.sum().isfinite())
    drawn = draw(p, draws.uniform.index_select(1, place).flatten()).clamp(max=p.shape[1] - 1).unsqueeze(1)
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
