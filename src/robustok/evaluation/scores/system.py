"""What was scored, in the words of a system table: name, parameters, kind of latent, tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from robustok.evaluation.scores.score import Score


def describe(*, name: str = "", tokenizer: object = None, generator: object = None) -> dict[str, Any]:
    """What a score's `system` says, as far as it is known.

    {"name": "demo", "latent": "discrete", "tokens": 64, "codebook_size": 1024,
     "parameters": {"tokenizer": 1_200_000, "generator": 3_000_000}}
    """
    about: dict[str, Any] = {"name": name} if name else {}
    if tokenizer is not None:
        codebook = getattr(tokenizer, "codebook", None)  # which makes a tokenizer discrete
        about["latent"] = "continuous" if codebook is None else "discrete"
        if (tokens := getattr(tokenizer, "tokens_per_image", None)) is not None:
            about["tokens"] = int(tokens)
        if codebook is not None:
            about["codebook_size"] = len(codebook)
    parts = {"tokenizer": tokenizer, "generator": generator}
    parameters = {part: _parameters(model) for part, model in parts.items() if isinstance(model, nn.Module)}
    return about | ({"parameters": parameters} if parameters else {})


def of_system(scores: Sequence[Score], system: Mapping[str, Any]) -> list[Score]:
    """The scores, each saying that it is of this system."""
    return [replace(score, system=system) for score in scores]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
