"""The page of the main-training study, from its JSON files."""

from collections.abc import Sequence
from pathlib import Path


def write(results: Path, queue: Sequence[str]) -> None: ...
