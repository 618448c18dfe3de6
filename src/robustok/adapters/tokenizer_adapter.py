"""Base classes of other families' tokenizers, with a codebook and without."""

from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustok.adapters.adapter import Adapter
from robustok.runtime.checkpoint import fingerprint
from robustok.shapes import Images, Latents
from robustok.tokenizer.quantizer import VQ, VectorQuantizer
from robustok.tokenizer.tokenizer import WithQuantizer, check_size


class Decoding:
    """What the `decoder` of any tokenizer tells."""

    decoder: Any

    @property
    def device(self) -> torch.device:
        return self.last_layer.device

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution or linear map, whose gradients balance two kinds of loss."""
        return [part for part in self.decoder.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1].weight


class TokenizerAdapter(Decoding, Adapter):
    """A `TokenizerLike`, once a family adds `encoder`, `decoder` and what is between them."""

    kind = "tokenizer"
    decider_parts: ClassVar[tuple[str, ...]] = ("encoder.", "to_code.", "quantizer.")  # parts that decide the tokens
    decider_fields: ClassVar[tuple[str, ...]] = ()  # and fields of the config, dotted
    image_size: int
    encoder: Any

    def encode(self, images: Images) -> Latents:
        """Latents (b n d) of images in [-1, 1]."""
        check_size(images, self.image_size)
        return self.encoder(images)

    def decode(self, codes: Latents) -> Images:
        """Images in [-1, 1], not clamped."""
        return self.decoder(codes)

    def fingerprint(self) -> str:
        """A hash of what decides the tokens or latents. The decoder may change under it."""
        weights = {name: w for name, w in self.state_dict().items() if name.startswith(self.decider_parts)}
        fields = {name.rpartition(".")[2]: attrgetter(name)(self.config) for name in self.decider_fields}
        return fingerprint(weights | {name: torch.tensor(value) for name, value in fields.items()})


class CodebookAdapter(WithQuantizer, TokenizerAdapter):
    """A `TokenizerLike` with a codebook, once a family adds a `quantizer`, too."""


def vector_quantizer(codebook_size: int, width: int, *, normalized: bool) -> VectorQuantizer:
    """A codebook of codes with `width` channels."""
    return VectorQuantizer(VQ(codebook_size=codebook_size, width=width, normalized=normalized))
