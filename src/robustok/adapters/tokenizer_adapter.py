"""Tokenizers of other families, with a codebook and without: what all of them share."""

from abc import abstractmethod
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustok.adapters.adapter import Adapter
from robustok.runtime.checkpoint import fingerprint
from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.quantizer import VQ, Quantized, VectorQuantizer


class TokenizerAdapter(Adapter):
    """A `ContinuousTokenizer`, once a family adds `encode` and `decode`."""

    kind = "tokenizer"
    decider_parts: ClassVar[tuple[str, ...]] = ("encoder.", "to_code.", "quantizer.")  # parts that decide the tokens
    decider_fields: ClassVar[tuple[str, ...]] = ()  # and fields of the config, dotted
    decoder: Any

    @property
    def device(self) -> torch.device:
        return self.last_layer.device

    @property
    def last_layer(self) -> Tensor:
        """The decoder's weight whose gradients balance reconstruction and adversarial loss."""
        return self.decoder.last_layer

    @abstractmethod
    def encode(self, images: Images) -> Latents:
        """Latents (b n d) of images in [-1, 1]."""

    @abstractmethod
    def decode(self, codes: Latents) -> Images:
        """Images in [-1, 1], not clamped."""

    def fingerprint(self) -> str:
        """A hash of what decides the tokens or latents. The decoder may change under it."""
        weights = {name: w for name, w in self.state_dict().items() if name.startswith(self.decider_parts)}
        fields = {name.rpartition(".")[2]: attrgetter(name)(self.config) for name in self.decider_fields}
        return fingerprint(weights | {name: torch.tensor(value) for name, value in fields.items()})


class CodebookAdapter(TokenizerAdapter):
    """An `AnyTokenizer`, once a family adds `encode`, `decode` and a `quantizer`."""

    quantizer: Any  # a VectorQuantizer, or what has as much of it as is used here

    @property
    def codebook(self) -> Codebook:
        return self.quantizer.codebook

    def quantize(self, latents: Latents) -> Quantized:
        return self.quantizer(latents)

    def lookup(self, tokens: Tokens) -> Latents:
        return self.quantizer.lookup(tokens)

    def pass_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, with the gradient to the latents, as `encode` gives them."""
        return self.quantizer.pass_through(self.quantizer.place(latents), codes)

    def forward(self, images: Images) -> Images:
        """Reconstructions."""
        return self.decode(self.quantize(self.encode(images)).codes)


def vector_quantizer(codebook_size: int, width: int, *, normalized: bool) -> VectorQuantizer:
    """A codebook of codes with `width` channels."""
    return VectorQuantizer(VQ(codebook_size=codebook_size, width=width, normalized=normalized))
