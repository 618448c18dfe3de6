"""The images that make up the batch of a training step."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from robustok.runtime.seeding import stream
from robustok.shapes import Labels


@dataclass(frozen=True)
class Windows:
    """An order for slow disks: an epoch shuffles the shards, then the images of every `window` shards in a row.

    So what is read within thousands of steps lies in few files, and each file is needed once an epoch; but images of
    one shard meet only those of the same window, so the shards should have been shuffled when they were written.
    """

    sizes: tuple[int, ...]  # images in each shard, in the order of the set
    window: int  # shards that are mixed

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; give the number of shards to mix, 1 or more")

    def of(self, indices: Labels) -> "Windows | None":
        """The same for some of the images, in their order; none once they are in another."""
        if not (indices.diff() > 0).all():
            return None
        ends = torch.tensor(self.sizes).cumsum(0)
        counts = torch.searchsorted(ends, indices, right=True).bincount(minlength=len(ends))
        return Windows(tuple(counts[counts > 0].tolist()), self.window)


def check_batch(length: int, batch_size: int) -> None:
    """Raises ValueError for a batch that so many images do not fill."""
    if not 1 <= batch_size <= length:
        raise ValueError(
            f"a batch of {batch_size} cannot be filled from {length} images; choose a batch_size of 1 to {length}"
        )


def batch_indices(length: int, batch_size: int, seed: int, step: int, windows: Windows | None = None) -> Labels:
    """Indices (batch_size,) of step `step` = 0, 1, ...: every epoch is its own permutation of range(length).

    A pure function of its arguments, so a resumed run needs no saved position. The length % batch_size images
    at the end of an epoch's permutation are left out of that epoch. `windows` says which permutations are drawn;
    None: any, all equally likely.
    """
    check_batch(length, batch_size)
    epoch, batch = divmod(step, length // batch_size)
    return _permutation(length, seed, epoch, windows)[batch * batch_size :][:batch_size].clone()


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int, windows: Windows | None) -> Tensor:
    generator = stream(seed, "order", epoch)
    if windows is None:
        return torch.randperm(length, generator=generator)
    assert sum(windows.sizes) == length
    images, order = torch.arange(length).split(windows.sizes), []
    for shards in torch.randperm(len(images), generator=generator).split(windows.window):
        mixed = torch.cat([images[shard] for shard in shards])
        order.append(mixed[torch.randperm(len(mixed), generator=generator)])
    return torch.cat(order)
