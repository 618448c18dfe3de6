"""Packages of the extras, which may not be installed."""

from importlib import import_module
from typing import Any


def needed(package: str, extra: str, what: str) -> Any:
    """A package of an extra, for `what`. Raises ValueError where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(f"{what} takes {package}; pip install 'robustok[{extra}]'") from error
