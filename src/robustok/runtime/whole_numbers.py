"""Whole numbers as people have them: of Python, numpy or torch."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def whole_number(value: Any) -> int | None:
    """The whole number that a value is, whoever's type it has; None for anything else, and for True and False."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_numbers(values: Any, name: str) -> Int64[Tensor, " n"]:
    """Whole numbers, in a row, as a tensor. Raises ValueError for anything else, masks among it."""
    found = values
    if isinstance(values, np.ndarray) or (isinstance(values, Sequence) and not isinstance(values, str | bytes)):
        if not len(values):
            return torch.empty(0, dtype=torch.int64)
        try:
            found = torch.as_tensor(values if isinstance(values, np.ndarray) else list(values))
        except (TypeError, ValueError, RuntimeError):
            found = values
    whole = isinstance(found, Tensor) and found.dtype != torch.bool and not found.dtype.is_floating_point
    if whole and found.ndim == 1:
        return found.long()
    mask = isinstance(found, Tensor) and found.dtype == torch.bool
    shape = f" of shape {tuple(found.shape)} and {found.dtype}" if isinstance(found, Tensor) else ""
    remedy = "; of a mask give mask.nonzero().flatten()" if mask else ", such as torch.tensor([0, 2])"
    raise ValueError(f"{name} are a {type(values).__name__}{shape}; give whole numbers in a row{remedy}")
