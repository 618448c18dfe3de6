"""VQ: the nearest code of a learnt codebook (van den Oord et al. 2017, arXiv 1711.00937)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Codebook, Latents, Tokens
from robustok.tokenizer.quantizers.learned import LearnedCodes, check_codebook, nearest_code
from robustok.tokenizer.quantizers.moving_average import ClusterAverages
from robustok.tokenizer.quantizers.quantized import Quantized, straight_through


@dataclass(frozen=True, kw_only=True)
class VQ:
    """Vector quantization with a learnt codebook (van den Oord et al. 2017)."""

    codebook_size: int = 4096  # number of codes, K
    width: int = 64  # width of a code, d
    normalized: bool = True  # latents and codes lie on the unit sphere (arXiv 2110.04627)
    commitment: float = 0.25  # weight of the latents' pull towards their codes
    gradient: Literal["straight-through", "rotation"] = "straight-through"  # how it passes the rounding
    revive_after: int = 100  # training steps without use after which a code is placed anew; 0 = never
    deciding: ClassVar[tuple[str, ...]] = ("normalized",)  # fields that decide the tokens and that no weight tells

    def __post_init__(self) -> None:
        check_codebook(self)


@dataclass(frozen=True, kw_only=True)
class EMAVQ(VQ):
    """VQ whose codes are moving averages of their latents (arXiv 1711.00937, appendix A.1), as in VQ-VAE-2."""

    decay: float = 0.99  # of the averages, in a step

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise ValueError(f"decay is {self.decay}; it is between 0 and 1, for example 0.99; for none take VQ")


def rotation_trick(latents: Latents, codes: Latents) -> Latents:
    """`codes` going forward; backward, the gradient turned and scaled as latents turn into codes.

    The rotation trick (arXiv 2410.06424, eq. 4): codes = s R latents with the scale s and the rotation R,
    the reflections I - 2 r r' + 2 q z', held constant.
    """
    norm_z, norm_q = (x.norm(dim=-1, keepdim=True).clamp_min(1e-6).detach() for x in (latents, codes))
    z, q = (latents / norm_z).detach(), (codes / norm_q).detach()
    r = F.normalize(z + q, dim=-1)

    def along(direction: Tensor) -> Tensor:
        return (latents * direction).sum(dim=-1, keepdim=True)

    return norm_q / norm_z * (latents - 2 * along(r) * r + 2 * along(z) * q)


class NearestCode:
    """What every quantizer does that takes for each latent the nearest code of a `codebook`."""

    config: Any  # with `commitment` and `gradient`
    averages: ClusterAverages | None  # which the codes follow in the place of a codebook loss

    @property
    def codebook(self) -> Codebook:
        raise NotImplementedError

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents where they are compared with codes."""
        return latents.float()

    def forward(self, latents: Latents) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):  # near codes differ by less than bf16 resolves
            latents, codebook = self.project(latents), self.codebook
            tokens = nearest_code(latents.detach(), codebook.detach())
        codes = F.embedding(tokens, codebook)
        loss = self.config.commitment * F.mse_loss(latents, codes.detach())
        if self.averages is None:
            loss = F.mse_loss(codes, latents.detach()) + loss
        return Quantized(self.straight_through(latents, codes), tokens, loss)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, with the configured gradient to `latents` (as `project` returns them)."""
        codes = codes.detach()
        return (
            rotation_trick(latents, codes) if self.config.gradient == "rotation" else straight_through(latents, codes)
        )

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens: (b, n, d)."""
        return F.embedding(tokens, self.codebook)


class VectorQuantizer(NearestCode, LearnedCodes):
    """The nearest code of a learnt codebook."""

    def __init__(self, config: VQ):
        super().__init__(config.codebook_size, config.width, decay=config.decay if isinstance(config, EMAVQ) else 0.0)
        self.config = config

    @property
    def codebook(self) -> Codebook:
        """The codes as the decoder gets them: (k, d), of length 1 if normalized."""
        return F.normalize(self.embedding, dim=-1) if self.config.normalized else self.embedding

    def project(self, latents: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Latents where they are compared with codes: on the unit sphere if the codebook is."""
        return F.normalize(latents.float(), dim=-1) if self.config.normalized else latents.float()
