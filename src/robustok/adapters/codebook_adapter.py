"""What tokenizers of other families share that have one codebook: an encoder, a vector quantizer, a decoder."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from robustok.adapters.adapter import Adapter
from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.quantizer import Quantized


class CodebookAdapter(Adapter):
    """A `TokenizerLike`, once a family adds `encode`, `decode` and what decides its tokens (`fingerprint`)."""

    quantizer: Any  # a VectorQuantizer, or what has as much of it as is used here
    decoder: Any

    @property
    def codebook(self) -> Codebook:
        return self.quantizer.codebook

    @property
    def device(self) -> torch.device:
        return self.quantizer.embedding.device

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    @abstractmethod
    def encode(self, images: Images) -> Latents:
        """Latents (b n d) of images in [-1, 1]."""

    @abstractmethod
    def decode(self, codes: Latents) -> Images:
        """Images in [-1, 1], not clamped."""

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
