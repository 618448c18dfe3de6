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
from torch import Tensor, nn

from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.quantizers.binary import all_signs, alone, entropies, signs, to_tokens
from robustok.tokenizer.quantizers.quantized import Quantized, check_codes, straight_through


@dataclass(frozen=True, kw_only=True)
class LFQ:
    """Lookup-free quantization (arXiv 2310.05737): the signs of a latent."""

    bits: int = 12  # channels, d; there are 2^d codes
    commitment: float = 0.25  # weight of the latents' pull towards their codes
    entropy: float = 0.1  # weight of the entropy term
    diversity: float = 1.0  # weight, within the entropy term, of using all codes
    temperature: float = 1.0  # of the softmax over codes in the entropy term; latents this near to 0 feel it most
    group: int = 9  # channels whose use is measured jointly; groups add up

    def __post_init__(self) -> None:
        check_bits(self.bits, self.group, self.temperature)
        if min(self.commitment, self.entropy, self.diversity) < 0:
            raise ValueError(
                "LFQ's commitment, entropy and diversity are weights of 0 or more, "
                f"not {self.commitment}, {self.entropy} and {self.diversity}"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes, K."""
        return 2**self.bits

    @property
    def width(self) -> int:
        """Width of a code, d."""
        return self.bits


def check_bits(bits: int, group: int, temperature: float) -> None:
    """Raises ValueError for what binary codes cannot be made or measured with."""
    if min(bits, group) < 1 or not temperature > 0:
        raise ValueError(
            "binary codes have at least 1 bit, entropy groups of at least 1 and a temperature above 0, "
            f"not {bits}, {group} and {temperature}"
        )
    check_codes(2**bits, "take at most 20 bits")


class LookupFreeQuantizer(nn.Module):
    """The nearest corner of the cube [-1, 1]^d."""

    codebook: Codebook  # (k, d); bit i of a token is 1 where channel i is 1

    def __init__(self, config: LFQ):
        super().__init__()
        self.config = config
        self.across = alone  # a batch may be worked off in several places; then set from there
        self.register_buffer("codebook", all_signs(config.bits), persistent=False)

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents as they are."""
        return latents.float()

    def forward(self, latents: Latents) -> Quantized:
        config = self.config
        with torch.autocast(latents.device.type, enabled=False):
            latents = self.project(latents)
            codes, tokens = signs(latents.detach()), to_tokens(latents.detach())
            loss = config.commitment * F.mse_loss(latents, codes)
            if config.entropy:
                # softmax over codes c of -|z - c|^2 / temperature; channel by channel that is a logistic function
                up = torch.sigmoid(4 * latents.flatten(0, 1) / config.temperature)
                of_each, of_all = entropies(up, config.group, self.across)
                loss = loss + config.entropy * (of_each - config.diversity * of_all)
        return Quantized(self.straight_through(latents, codes), tokens, loss)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, the gradient to the latents."""
        return straight_through(latents, codes)

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens: (b, n, d)."""
        return F.embedding(tokens, self.codebook)
