"""Which images make up the batch of a training step."""

from functools import lru_cache

import torch
from torch import Tensor

from robustok.runtime.seeding import stream
from robustok.shapes import Labels


def batch_indices(length: int, batch_size: int, seed: int, step: int) -> Labels:
    """Indices (batch_size,) of step `step` = 0, 1, ...: every epoch is its own permutation of range(length).

    A pure function of its arguments, so a resumed run needs no saved position. The length % batch_size images
    at the end of an epoch's permutation are left out of that epoch.
    """
    if not 1 <= batch_size <= length:
        raise ValueError(f"a batch of {batch_size} cannot be filled from {length} images; choose 1 to {length}")
    epoch, batch = divmod(step, length // batch_size)
    return _permutation(length, seed, epoch)[batch * batch_size :][:batch_size].clone()


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=stream(seed, "order", epoch))
