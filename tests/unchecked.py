"""Configs with values to which their annotations, which tests check, would object before they can."""

from collections.abc import Mapping
from typing import Any


def check(kind: type, values: Mapping[str, Any]) -> None:
    """Raises what a config of that kind raises for such values of its fields."""
    config: Any = object.__new__(kind)
    vars(config).update(values)
    config.__post_init__()
