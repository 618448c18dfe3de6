"""Randomness as a function of where you are, so that a resumed run needs no saved random state."""

import operator
from hashlib import blake2b

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

STEP, *FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64
SHIFTS = (30, 27, 31)


def derive(seed: int, purpose: str, *position: int) -> int:
    """A 64-bit seed for one purpose at one position; the same in every process and on every machine.

    Any whole number is a `seed`. Raises ValueError for anything else.
    """
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed is {seed!r}; give a whole number") from error
    text = repr((seed, purpose, tuple(int(place) for place in position)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def stream(seed: int, purpose: str, *position: int, device: str | torch.device = "cpu") -> Generator:
    """The random numbers of one purpose at one position, for example `stream(0, "perturb", step, rank)`.

    Streams that differ in seed, purpose or any position are independent. torch's CPU generator keeps 32
    bits of its seed, so among 10,000 streams two coincide with a chance of 1 %: harmless for training
    noise; whoever draws hundreds of thousands of samples takes one stream for many of them.
    """
    return Generator(device).manual_seed(derive(seed, purpose, *position))


def mixed(positions: Tensor) -> Int64[Tensor, " b"]:
    """A 64-bit number for each position from 0, as if random: what splitmix64 gives from seed 0 (Steele et al. 2014).

    Positions have different numbers, and what repeats along them (classes in turn, one class after the other, strides)
    does not show in the order of these numbers.
    """
    x = (positions.long() + 1) * _signed(STEP)
    for shift, factor in zip(SHIFTS, (*FACTORS, 1), strict=True):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * _signed(factor)  # the mask: >> repeats the sign
    return x


def spread(count: int, of: int) -> Int64[Tensor, " count"]:
    """`count` of the positions 0 to `of` - 1 in ascending order, as if drawn: those of smallest `mixed`.

    All of them where `count` is as many or more. A larger count takes the same positions and some more. Evenly spaced
    positions would not do: of classes in turn, they see some and not others.
    """
    chosen: Tensor = mixed(torch.arange(of)).argsort()[:count].sort().values
    return chosen


def _signed(number: int) -> int:
    """The same 64 bits as torch has them."""
    return number - (1 << 64) if number >> 63 else number
