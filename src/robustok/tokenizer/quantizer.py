"""Latent -> codes, tokens and loss: every kind of quantizer behind one return type."""

from typing import TypeAlias

from robustok.tokenizer.quantizers.binary_spherical import BSQ, BinarySphericalQuantizer
from robustok.tokenizer.quantizers.finite_scalar import FSQ, FiniteScalarQuantizer
from robustok.tokenizer.quantizers.learned import LearnedCodes, nearest_code
from robustok.tokenizer.quantizers.lookup_free import LFQ, LookupFreeQuantizer
from robustok.tokenizer.quantizers.multi_scale import MultiScale, MultiScaleVQ
from robustok.tokenizer.quantizers.quantized import Quantized, Quantizer, code_use, straight_through
from robustok.tokenizer.quantizers.residual import ResidualQuantizer, ResidualVQ
from robustok.tokenizer.quantizers.sim_vq import SimVectorQuantizer, SimVQ
from robustok.tokenizer.quantizers.vector import EMAVQ, VQ, VectorQuantizer

__all__ = [
    "BSQ",
    "EMAVQ",
    "FSQ",
    "LFQ",
    "VQ",
    "BinarySphericalQuantizer",
    "FiniteScalarQuantizer",
    "LearnedCodes",
    "LookupFreeQuantizer",
    "MultiScale",
    "MultiScaleVQ",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "ResidualVQ",
    "SimVQ",
    "SimVectorQuantizer",
    "VectorQuantizer",
    "build_quantizer",
    "code_use",
    "nearest_code",
    "rotate",
    "straight_through",
    "tokens_of",
]

AnyVQ: TypeAlias = VQ | EMAVQ | SimVQ | ResidualVQ | MultiScaleVQ | FSQ | LFQ | BSQ
AnyQuantizer: TypeAlias = (
    VectorQuantizer
    | SimVectorQuantizer
    | ResidualQuantizer
    | MultiScale
    | FiniteScalarQuantizer
    | LookupFreeQuantizer
    | BinarySphericalQuantizer
)


def build_quantizer(config: AnyVQ) -> AnyQuantizer:
    """The quantizer of latents (b n width)."""
    match config:
        case VQ():
            return VectorQuantizer(config)
        case SimVQ():
            return SimVectorQuantizer(config)
        case ResidualVQ():
            return ResidualQuantizer(config)
        case MultiScaleVQ():
            return MultiScale(config)
        case FSQ():
            return FiniteScalarQuantizer(config)
        case LFQ():
            return LookupFreeQuantizer(config)
        case BSQ():
            return BinarySphericalQuantizer(config)


def tokens_of(config: AnyVQ, latents: int) -> int:
    """How many tokens an image of so many latents has: as many, or those of all levels.

    Raises ValueError for a number of latents that the levels do not fit.
    """
    return sum(config.tokens_per_level(latents)) if isinstance(config, ResidualVQ | MultiScaleVQ) else latents
