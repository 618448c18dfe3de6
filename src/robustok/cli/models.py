"""From what was typed to a tokenizer and a generator."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch

from robustok.api import load_generator, load_tokenizer
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.runtime.checkpoint import parse_json
from robustok.runtime.distributed import is_main
from robustok.tokenizer.protocol import TokenizerLike, codebook_of
from robustok.training.generator_training import AnyGenerator
from robustok.training.without_codebook import latent_shape


def fields_of(typed: Iterable[str]) -> dict[str, Any]:
    """`image_size=384` as {"image_size": 384}: JSON where it is, else a string. Raises ValueError."""
    fields = {}
    for text in typed:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"{text!r} is no field; write it like image_size=384")
        try:
            fields[name] = parse_json(value)
        except ValueError:
            fields[name] = value
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def tokenizer_named(name: Path, device: torch.device, fields: Iterable[str] = ()) -> Any:
    """The tokenizer of a name, on the device. Raises ValueError for a field that its family does not have."""
    return _told(load_tokenizer(name, **fields_of(fields)), name).to(device)


def generator_named(name: Path, device: torch.device, tokenizer: Any) -> Any:
    """The generator of a name, trained on that tokenizer, on the device."""
    return _told(load_generator(name, tokenizer=tokenizer), name).to(device)


def _told(model: Any, name: Path) -> Any:
    """The model; which weights it has is said where its file holds several."""
    weights = getattr(getattr(model, "source", None), "weights", None)
    if weights is not None and is_main():
        print(f"{name} holds several sets of weights; those under {weights} were read", file=sys.stderr)
    return model


def fitting(generator: AnyGenerator, tokenizer: TokenizerLike, classes: int) -> AnyGenerator:
    """A preset's generator for what this tokenizer makes; for latents a diffusion transformer of its size.

    Raises ValueError for a generator of latents where the tokenizer makes tokens.
    """
    if (codebook := codebook_of(tokenizer)) is not None:
        if isinstance(generator, DiffusionTransformer):
            raise ValueError("this preset's generator is of continuous latents; take demo or smoke for tokens")
        return replace(generator, codebook_size=len(codebook), tokens=tokenizer.tokens_per_image, classes=classes)
    n, channels = latent_shape(tokenizer)
    if isinstance(generator, DiffusionTransformer):
        return replace(generator, tokens=n, channels=channels, classes=classes)
    size = {name: getattr(generator, name) for name in ("width", "depth", "heads", "label_dropout")}
    layout: Literal["grid", "sequence"] = "grid" if isqrt(n) ** 2 == n else "sequence"
    return DiffusionTransformer(tokens=n, channels=channels, classes=classes, layout=layout, **size)
