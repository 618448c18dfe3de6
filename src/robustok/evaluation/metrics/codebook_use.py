"""Codebook use of a tokenizer."""

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.shapes import Tokens


def code_counts(tokens: Tokens, codebook_size: int) -> Int[Tensor, " k"]:
    """Number of times each code occurs. Counts of parts add up. Raises ValueError for tokens outside the codebook."""
    low, high = (int(tokens.min()), int(tokens.max())) if tokens.numel() else (0, 0)
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"tokens run from {low} to {high}, outside a codebook of {codebook_size} codes; "
            "they were made by another tokenizer"
        )
    return torch.bincount(tokens.flatten(), minlength=codebook_size)


def used_fraction(counts: Int[Tensor, " k"]) -> float:
    """Fraction of the codes that occur at all, 0 to 1."""
    return float((counts > 0).double().mean())


def dead_codes(counts: Int[Tensor, " k"]) -> int:
    """Number of codes that never occur."""
    return int((counts == 0).sum())


def perplexity(counts: Int[Tensor, " k"]) -> float:
    """exp(entropy of the codes): k when all are equally frequent, 1 when there is only one."""
    fraction = counts.double() / counts.sum()
    return float(torch.exp(-torch.xlogy(fraction, fraction).sum()))
