"""What a demo compares in the end: decoders of one tokenizer, on the same samples of its generator."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustok.data.latent_cache import LatentCache
from robustok.demo.config import Demo, DemoImages
from robustok.shapes import Labels
from robustok.tokenizer.protocol import codes_of

BLOCK = 2_000  # training images whose codes are looked up at once


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Tokenizers that differ in their decoders, the tokens or latents that all of them decode, and what is real."""

    config: Demo
    images: DemoImages
    cache: LatentCache  # of the training images
    decoders: Mapping[str, Any]  # tokenizers by the names of `metric_names.VARIANTS`, the original, before, first
    kept: Collection[str] = ()  # names of those that are the original one, for post-training found none better
    drawn: Tensor  # (b n) or (b n d)
    labels: Labels  # of what is drawn
    how: dict[str, Any]  # it was drawn, as a score's protocol says it

    @property
    def tokenizer(self) -> Any:
        """The one whose tokens or latents these are."""
        return self.decoders["before"]

    @property
    def after(self) -> str:
        """What the decoder after post-training is, in words."""
        return "original decoder, which post-training kept" if "after" in self.kept else "post-trained decoder"

    @cached_property
    def known(self) -> Tensor:
        """The latents of all training images, or the codes of their tokens: (b, n d)."""
        parts = torch.arange(len(self.cache)).split(BLOCK)
        return torch.cat([self.codes(self.cache.plain(part)) for part in parts])

    def codes(self, drawn: Tensor) -> Tensor:
        """Latents as they are, or the codes of tokens: (b, n d), on the CPU."""
        return codes_of(self.tokenizer, drawn).flatten(1).cpu()
