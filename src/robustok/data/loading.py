"""Batches for training: which images, in which view, made ahead of the step that takes them.

Image p of step s is a function of the seed, s and p alone: not of the number of ranks, threads or earlier steps. So a
run goes on with the very next image after a stop anywhere in an epoch, on any number of processes, from no saved state.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.data.images import DRAWS, ImageSet
from robustok.data.latent_cache import LatentCache
from robustok.data.order import batch_indices
from robustok.runtime.seeding import stream
from robustok.runtime.trees import mapped
from robustok.shapes import Images, Labels

T = TypeVar("T")
Rows: TypeAlias = slice | Int[Tensor, " b"]
AHEAD_OF_GPU = 4  # batches
MAKERS = 2  # batches made at once, so that one's last image does not leave threads idle


def training_batch(images: ImageSet, batch_size: int, seed: int, step: int, rows: Rows = slice(None)) -> Images:
    """The training view of the images of a step, or of some `rows` of that batch: those of one rank, say.

    Only the images of these rows are read. A set with `windows` is taken in their order.
    """
    indices = batch_indices(len(images), batch_size, seed, step, getattr(images, "windows", None))
    generator = stream(seed, "crop and flip", step)
    draws = torch.rand(batch_size, DRAWS, generator=generator, dtype=torch.float64)
    return images.training_images(indices[rows], draws[rows])


def cached_batch(
    cache: LatentCache, batch_size: int, seed: int, step: int, rows: Rows = slice(None)
) -> tuple[Tensor, Labels]:
    """Tokens or latents and labels of a step, in views drawn at random, or of some `rows` of that batch."""
    indices = batch_indices(len(cache), batch_size, seed, step)
    views = torch.randint(cache.views, indices.shape, generator=stream(seed, "view", step))
    return cache.at(indices[rows], views[rows])


def prefetched(make: Callable[[int], T], start: int, stop: int, *, ahead: int | None = None) -> Iterator[T]:
    """`make(start)` to `make(stop - 1)` in turn, up to `ahead` of them being made while one is used.

    None: `AHEAD_OF_GPU` where there is a GPU, whose step needs no core of ours, else one. With a GPU tensors (also in
    tuples and lists) lie in pinned memory, from which `.to(device, non_blocking=True)` copies while the program goes
    on. Raises what `make` raises, when its turn comes.
    """
    gpu = torch.cuda.is_available()
    ahead = (AHEAD_OF_GPU if gpu else 1) if ahead is None else ahead
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}; give the number of batches to make ahead, 1 or more")

    def made(step: int) -> T:
        return mapped(make(step), lambda tensor: tensor.pin_memory()) if gpu else make(step)

    # torch's own threads would wait for cores that the step needs.
    one_core = partial(torch.set_num_threads, 1)
    threads = ThreadPoolExecutor(min(ahead, MAKERS), thread_name_prefix="batches", initializer=one_core)
    try:
        waiting = deque(threads.submit(made, step) for step in range(start, min(start + ahead, stop)))
        for step in range(start, stop):
            batch = waiting.popleft().result()
            if step + ahead < stop:
                waiting.append(threads.submit(made, step + ahead))
            yield batch
    finally:
        threads.shutdown(cancel_futures=True)
