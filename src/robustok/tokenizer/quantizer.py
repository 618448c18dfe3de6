"""Latent -> codes, tokens and loss: every kind of quantizer behind one return type."""

from typing import TypeAlias

from robustok.tokenizer.quantizers.binary_spherical import BSQ, BinarySphericalQuantizer
from robustok.tokenizer.quantizers.finite_scalar import FSQ, FiniteScalarQuantizer
from robustok.tokenizer.quantizers.lookup_free import LFQ, LookupFreeQuantizer
from robustok.tokenizer.quantizers.quantized import Quantized, Quantizer, code_use, straight_through
from robustok.tokenizer.quantizers.vector import VQ, VectorQuantizer, nearest_code, rotate

__all__ = [
    "BSQ",
    "FSQ",
    "LFQ",
    "VQ",
    "BinarySphericalQuantizer",
    "FiniteScalarQuantizer",
    "LookupFreeQuantizer",
    "Quantized",
    "Quantizer",
    "VectorQuantizer",
    "build_quantizer",
    "code_use",
    "nearest_code",
    "rotate",
    "straight_through",
]

AnyQuantizer: TypeAlias = VectorQuantizer | FiniteScalarQuantizer | LookupFreeQuantizer | BinarySphericalQuantizer


def build_quantizer(config: VQ | FSQ | LFQ | BSQ) -> AnyQuantizer:
    """The quantizer of latents (b n width)."""
    match config:
        case VQ():
            return VectorQuantizer(config)
        case FSQ():
            return FiniteScalarQuantizer(config)
        case LFQ():
            return LookupFreeQuantizer(config)
        case BSQ():
            return BinarySphericalQuantizer(config)
