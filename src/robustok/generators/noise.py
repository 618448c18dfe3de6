"""Random numbers of a sample: a Philox stream whose key is (seed, sample), so of no batch, process or machine."""

import operator
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from robustok.shapes import Latents

Draw: TypeAlias = Callable[[], Latents]


def uniforms(seed: int, samples: Iterable[int], n: int) -> Float[torch.Tensor, "b n"]:
    """n float64 numbers in [0, 1) for each sample."""
    return torch.from_numpy(np.stack([stream.random(n) for stream in streams(seed, samples)]))


def noise_stream(seed: int, samples: Iterable[int], shape: tuple[int, int]) -> Draw:
    """Gaussian noise (b n d) of each sample, more of it at every call."""
    own = streams(seed, samples)
    return lambda: torch.from_numpy(np.stack([stream.standard_normal(shape, dtype=np.float32) for stream in own]))


def streams(seed: int, samples: Iterable[int]) -> list[np.random.Generator]:
    """Each sample's own generator of random numbers.

    Any whole number is a seed; of one that takes more than 64 bits, or a sign, the key holds a hash. Raises ValueError
    for anything else.
    """
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed is {seed!r}; give a whole number") from error
    if not 0 <= seed < 2**64:
        seed = int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest(), "little")
    keys = (np.array([seed, sample], dtype=np.uint64) for sample in samples)
    return [np.random.Generator(np.random.Philox(key=key)) for key in keys]
