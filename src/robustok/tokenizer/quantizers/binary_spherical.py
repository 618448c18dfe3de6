"""BSQ: a latent on the unit sphere goes to the nearest corner of the cube inside (Zhao et al. 2024, arXiv 2406.07548).

All codes are of length 1, so that the error of quantizing is bounded and no commitment loss is needed.
vector-quantize-pytorch 1.32 (its LFQ, spherical) gives the same codes, and the same entropies where one group holds
all bits.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.quantizers.binary import all_signs, alone, entropies, signs, to_tokens
from robustok.tokenizer.quantizers.lookup_free import check_bits
from robustok.tokenizer.quantizers.quantized import Quantized, straight_through


@dataclass(frozen=True, kw_only=True)
class BSQ:
    """Binary spherical quantization (arXiv 2406.07548): the signs of a latent of length 1."""

    bits: int = 12  # channels, d; there are 2^d codes
    entropy: float = 0.1  # weight of the entropy term
    diversity: float = 1.0  # weight, within the entropy term, of using all codes
    temperature: float = 0.01  # of the softmax over codes in the entropy term, 1 / tau in the paper
    group: int = 1  # channels whose use is measured jointly; groups add up

    def __post_init__(self) -> None:
        check_bits(self.bits, self.group, self.temperature)
        if min(self.entropy, self.diversity) < 0:
            raise ValueError(
                f"BSQ's entropy and diversity are weights of 0 or more, not {self.entropy} and {self.diversity}"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes, K."""
        return 2**self.bits

    @property
    def width(self) -> int:
        """Width of a code, d."""
        return self.bits


class BinarySphericalQuantizer(nn.Module):
    """The nearest of the codes (+-1, ..., +-1) / sqrt(d) to a latent on the unit sphere."""

    codebook: Codebook  # (k, d), of length 1; bit i of a token is 1 where channel i is positive

    def __init__(self, config: BSQ):
        super().__init__()
        self.config = config
        self.across = alone  # a batch may be worked off in several places; then set from there
        self.register_buffer("codebook", all_signs(config.bits) / config.bits**0.5, persistent=False)

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents on the unit sphere."""
        return F.normalize(latents.float(), dim=-1)

    def forward(self, latents: Latents) -> Quantized:
        config = self.config
        side = config.bits**-0.5
        with torch.autocast(latents.device.type, enabled=False):
            latents = self.project(latents)
            codes, tokens = side * signs(latents.detach()), to_tokens(latents.detach())
            loss = latents.new_zeros(())
            if config.entropy:
                # softmax over codes c of z'c / temperature; channel by channel that is a logistic function (eq. 8)
                up = torch.sigmoid(2 * side * latents.flatten(0, 1) / config.temperature)
                of_each, of_all = entropies(up, config.group, self.across)
                loss = config.entropy * (of_each - config.diversity * of_all)
        return Quantized(self.straight_through(latents, codes), tokens, loss)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, the gradient to the latents on the sphere (as `project` returns them)."""
        return straight_through(latents, codes)

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens: (b, n, d)."""
        return F.embedding(tokens, self.codebook)
