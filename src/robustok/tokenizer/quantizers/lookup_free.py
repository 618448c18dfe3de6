"""LFQ: a latent's signs are its code (Yu et al. 2023, arXiv 2310.05737, MAGVIT-v2, sec. 3.2).

Codes are the corners of a cube. An entropy term asks for latents that choose clearly and, together, for all codes.
vector-quantize-pytorch 1.32 gives the same codes, losses and entropies, to the 1e-5 that it adds inside logarithms;
it numbers the bits from the other end, and its temperature is 0.01, at which only latents nearer to 0 than that feel
the entropy term.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.runtime.configs import check_least
from robustok.shapes import Latents
from robustok.tokenizer.quantizers.binary import BinaryCodes, OfBits, all_signs, signs, to_tokens
from robustok.tokenizer.quantizers.quantized import Quantized


@dataclass(frozen=True, kw_only=True)
class LFQ(OfBits):
    """Lookup-free quantization (arXiv 2310.05737): the signs of a latent."""

    bits: int = 12  # channels, d; there are 2^d codes
    commitment: float = 0.25  # weight of the latents' pull towards their codes
    entropy: float = 0.1  # weight of the entropy term
    diversity: float = 1.0  # weight, within the entropy term, of using all codes
    temperature: float = 1.0  # of the softmax over codes in the entropy term; latents this near to 0 feel it most
    group: int = 9  # channels whose use is measured jointly; groups add up

    def __post_init__(self) -> None:
        self.check()
        check_least(self, 0, "commitment", "entropy", "diversity")


class LookupFreeQuantizer(BinaryCodes):
    """The nearest corner of the cube [-1, 1]^d."""

    def __init__(self, config: LFQ):
        super().__init__(config, all_signs(config.bits))

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents as they are."""
        return latents.float()

    def forward(self, latents: Latents) -> Quantized:
        config = self.config
        with torch.autocast(latents.device.type, enabled=False):
            latents = self.project(latents)
            codes, tokens = signs(latents.detach()), to_tokens(latents.detach())
            loss = config.commitment * F.mse_loss(latents, codes)
            # softmax over codes c of -|z - c|^2 / temperature; channel by channel that is a logistic function
            loss = loss + self.entropy_term(4 * latents / config.temperature)
        return Quantized(self.straight_through(latents, codes), tokens, loss)
