"""FSQ: every channel of a latent is rounded to one of a few levels (Mentzer et al. 2023, arXiv 2309.15505).

The codebook is all combinations of levels; nothing about it is learnt, so that it has no loss and cannot collapse.
vector-quantize-pytorch 1.32 has the same codes and token numbers; it bounds latents a little outside of the
outermost levels, not inside, which moves 1 token in 100. With its margin set to ours, codes and gradients are equal.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Codebook, Latents
from robustok.tokenizer.quantizers.quantized import ImplicitCodes, Quantized, check_codes

MARGIN = 1e-3  # keeps latents inside of the outermost levels, so that rounding never leaves them


@dataclass(frozen=True, kw_only=True)
class FSQ:
    """Finite scalar quantization (arXiv 2309.15505): a fixed number of levels for every channel."""

    levels: tuple[int, ...] = (7, 5, 5, 5, 5)  # of each channel; their product is the number of codes

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ValueError(
                f"FSQ rounds each channel to 3 levels or more, not {self.levels}; for two of them take LFQ or BSQ"
            )
        check_codes(self.codebook_size, "take fewer channels or levels")

    @property
    def codebook_size(self) -> int:
        """Number of codes, K."""
        return math.prod(self.levels)

    @property
    def width(self) -> int:
        """Width of a code, d."""
        return len(self.levels)


class FiniteScalarQuantizer(ImplicitCodes):
    """The nearest combination of levels."""

    codebook: Codebook  # (k, d) in [-1, 1]; the first channel's level changes fastest
    half_width: Tensor  # (d,) L // 2: levels are the integers from -half_width, divided by it
    basis: Tensor  # (d,) codes between two levels of a channel

    def __init__(self, config: FSQ):
        super().__init__()
        self.config = config
        levels = torch.tensor(config.levels)
        basis = torch.cat([torch.ones(1, dtype=torch.int64), levels.cumprod(0)[:-1]])
        numbers = torch.arange(config.codebook_size)[:, None] // basis % levels
        self.register_buffer("half_width", levels // 2, persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("codebook", (numbers - levels // 2) / (levels // 2), persistent=False)

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents bounded so that rounding gives each of L levels (paper, appendix A.1), in [-1, 1].

        Even L have no level in the middle: they are shifted down by half a level, and the tanh aside so that 0
        stays 0. The paper prints tan where that takes atanh; the two agree to the third order.
        """
        levels = torch.tensor(self.config.levels, device=latents.device)
        reach = (levels - 1) * (1 - MARGIN) / 2
        offset = 0.5 * (levels % 2 == 0)
        return (torch.tanh(latents.float() + torch.atanh(offset / reach)) * reach - offset) / self.half_width

    def forward(self, latents: Latents) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            latents = self.project(latents)
            integers = (latents.detach() * self.half_width).round()
        tokens = ((integers.long() + self.half_width) * self.basis).sum(dim=-1)
        codes = self.straight_through(latents, integers / self.half_width)
        return Quantized(codes, tokens, latents.new_zeros(()))
