"""BSQ: a latent on the unit sphere goes to the nearest corner of the cube inside (Zhao et al. 2024, arXiv 2406.07548).

All codes are of length 1, so that the error of quantizing is bounded and no commitment loss is needed.
vector-quantize-pytorch 1.32 (its LFQ, spherical) gives the same codes, and the same entropies where one group holds
all bits.
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
class BSQ(OfBits):
    """Binary spherical quantization (arXiv 2406.07548): the signs of a latent of length 1."""

    bits: int = 12  # channels, d; there are 2^d codes
    entropy: float = 0.1  # weight of the entropy term
    diversity: float = 1.0  # weight, within the entropy term, of using all codes
    temperature: float = 0.01  # of the softmax over codes in the entropy term, 1 / tau in the paper
    group: int = 1  # channels whose use is measured jointly; groups add up

    def __post_init__(self) -> None:
        self.check()
        check_least(self, 0, "entropy", "diversity")


class BinarySphericalQuantizer(BinaryCodes):
    """The nearest of the codes (+-1, ..., +-1) / sqrt(d) to a latent on the unit sphere."""

    def __init__(self, config: BSQ):
        super().__init__(config, all_signs(config.bits) / config.bits**0.5)

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents on the unit sphere."""
        return F.normalize(latents.float(), dim=-1)

    def forward(self, latents: Latents) -> Quantized:
        config = self.config
        side = config.bits**-0.5
        with torch.autocast(latents.device.type, enabled=False):
            latents = self.project(latents)
            codes, tokens = side * signs(latents.detach()), to_tokens(latents.detach())
            # softmax over codes c of z'c / temperature; channel by channel that is a logistic function (eq. 8)
            loss = self.entropy_term(2 * side * latents / config.temperature)
        return Quantized(self.straight_through(latents, codes), tokens, loss)
