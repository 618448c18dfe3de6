"""SimVQ: a codebook of random vectors that stay, times a learned linear map (Zhu et al. 2024, arXiv 2411.02038).

Every step moves all codes, so that none is left behind: nothing is started by k-means and nothing revived. Latents are
compared with the mapped codes, whose neighbors are those of perturbation. vector-quantize-pytorch 1.32 gives the same
tokens, codes, losses and gradients; there the rotation trick is on by default, which is `gradient` here.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustok.shapes import Codebook
from robustok.tokenizer.quantizers.learned import check_codebook
from robustok.tokenizer.quantizers.vector import NearestCode


@dataclass(frozen=True, kw_only=True)
class SimVQ:
    """Vector quantization by a frozen random codebook and a learned linear map of it (arXiv 2411.02038)."""

    codebook_size: int = 4096  # number of codes, K
    width: int = 64  # width of a code, d
    commitment: float = 0.25  # weight of the latents' pull towards their codes
    gradient: Literal["straight-through", "rotation"] = "straight-through"  # how it passes the rounding
    revive_after: ClassVar[int] = 0  # nothing is placed anew
    deciding: ClassVar[tuple[str, ...]] = ()  # fields that decide the tokens and that no weight tells

    def __post_init__(self) -> None:
        check_codebook(self)


class SimVectorQuantizer(NearestCode, nn.Module):
    """The nearest of the mapped codes."""

    frozen: Tensor  # (k, d), of about length 1

    def __init__(self, config: SimVQ):
        super().__init__()
        self.config, self.averages = config, None
        self.register_buffer("frozen", torch.randn(config.codebook_size, config.width) / config.width**0.5)
        self.map = nn.Linear(config.width, config.width, bias=False)

    @property
    def codebook(self) -> Codebook:
        """The codes as the decoder gets them: (k, d)."""
        return self.map(self.frozen)
