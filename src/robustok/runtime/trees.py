"""Tensors in dictionaries, lists and tuples, however deep."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same with every tensor changed; what is no tensor stays as it is, a named tuple one."""
    match value:
        case Tensor():
            return change(value)
        case Mapping():
            return {name: mapped(entry, change) for name, entry in value.items()}
        case list() | tuple():
            entries = [mapped(entry, change) for entry in value]
            return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value
