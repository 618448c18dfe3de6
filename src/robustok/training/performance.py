"""Speed and memory of training, put on a finished model from outside; what comes out is the same up to rounding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import world_size


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Settings that cost or save time and memory and do not change what is learned."""

    checkpointing: bool = False  # backward computes every block's activations again: a third more work, far less memory
    compile: str | None = None  # backend of torch.compile, on GPUs inductor; None: the model runs as it is written
    tf32: bool = False  # GPUs multiply float32 with 10 bits of mantissa, several times as fast

    def apply(self, parts: Sequence[nn.Module]) -> None:
        """Checkpoint and compile some modules of a model, in place: their weights keep their names.

        Raises ValueError for a backend that there is not.

        On several ranks each block is compiled on its own: the gradients of one compiled graph come all at once, too
        late to travel while backward runs, and FSDP puts weights together block by block.
        """
        for part in parts:
            if self.checkpointing:
                for block in blocks(part):
                    again = partial(checkpoint, block.forward, use_reentrant=False)
                    block.forward = again
            if self.compile is not None:
                for piece in (blocks(part) if world_size() > 1 else ()) or (part,):
                    self._compile(piece)

    def _compile(self, piece: nn.Module) -> None:
        """Raises ValueError where there is no such backend."""
        from torch._dynamo.exc import InvalidBackend

        try:
            piece.compile(backend=self.compile)
        except InvalidBackend as error:
            raise ValueError(
                f"there is no backend {self.compile!r} of torch.compile for performance.compile; take inductor, or "
                "null for none"
            ) from error

    @contextmanager
    def tf32_matmul(self) -> Iterator[None]:
        """A context in which float32 matrix products are taken in TF32 where `tf32` says so."""
        before = torch.get_float32_matmul_precision()
        if self.tf32:
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks that a network is a row of: what its lists and sequences hold that is made of parts itself."""
    rows = [row for row in module.modules() if isinstance(row, (nn.ModuleList, nn.Sequential))]
    found = [block for row in rows for block in row if any(block.children()) and not isinstance(block, nn.Sequential)]
    inner = {id(part) for block in found for part in block.modules() if part is not block}
    return [block for block in found if id(block) not in inner]


def without_performance(config: Any) -> dict[str, Any]:
    """A stage's config as JSON values, without how fast it runs: what a run must agree in to be continued."""
    assert is_dataclass(config)
    fast = {field.name for field in fields(config) if isinstance(getattr(config, field.name), Performance)} | {"shard"}
    return {name: value for name, value in to_plain(config).items() if name not in fast}
