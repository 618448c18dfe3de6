"""A class-conditional transformer that predicts all masked tokens of an image at once: MaskGIT (Chang et al. 2022).

arXiv 2202.04200, sec. 3.1: of each training image ceil(n cos(pi u / 2)) tokens are masked, u uniform in [0, 1), at
places drawn at random, and the loss is the cross entropy of the masked ones. `robustok.generators.unmasking` draws
images. The transformer reads [label, token, token, ...] and sees all of it; its blocks are pre-norm, where MaskGIT has
BERT's, and there is no dropout.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustok.generators.protocol import Logits
from robustok.generators.token_model import TokenModel
from robustok.generators.unmasking import MaskedSampling
from robustok.layers import Block
from robustok.runtime.configs import check_least, check_shares
from robustok.shapes import Labels, Scalar, TokenMask, Tokens


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A class-conditional transformer that fills in masked tokens (MaskGIT: width 768, depth 24, heads 8)."""

    codebook_size: int  # codes of the tokenizer
    tokens: int  # tokens of an image
    classes: int  # labels are in [0, classes)
    width: int = 256  # channels; a head, width / heads of them, is fastest at 64
    depth: int = 6  # transformer blocks
    heads: int = 4  # attention heads of a block
    mlp_ratio: float = 4.0  # hidden width of a block's MLP, in widths
    label_smoothing: float = 0.1  # share of a target's probability that all codes get alike; 0: none
    label_dropout: float = 0.1  # share of training images whose label is withheld, which guidance needs

    def __post_init__(self) -> None:
        check_least(self, 1, "codebook_size", "tokens", "classes", "width", "depth", "heads")
        check_shares(self, "label_smoothing", "label_dropout")


class MaskedDraw(NamedTuple):
    """What is random in a training step: of each image, whether its label is withheld, and which tokens are masked."""

    withheld: Bool[Tensor, " b"]
    masked: TokenMask
    weight: Float[Tensor, " b"]  # of a masked token's loss: 1 / (masked tokens of an image, in the mean)


def masked_counts(uniform: Float[Tensor, " b"], n: int) -> Tensor:
    """How many of n tokens are masked for each number in [0, 1): ceil(n cos(pi u / 2)), so at least one."""
    return (n * (math.pi / 2 * uniform.double()).cos()).ceil().long().clamp(1, n)


class MaskedModel(TokenModel):
    """Tokens from tokens of which some are masked, as `Masked` says: a `GeneratorLike` of tokens."""

    kind, config_type = "masked generator", Masked
    sampling: ClassVar = MaskedSampling()  # unless told
    config: Masked

    def __init__(self, config: Masked):
        super().__init__()
        self.config = config
        width = config.width
        self.label_embedding = nn.Embedding(config.classes + 1, width)  # the last one stands for no label
        self.token_embedding = nn.Embedding(config.codebook_size + 1, width)  # the last one is the mask
        self.positions = nn.Parameter(torch.empty(config.tokens + 1, width))  # of label and every place
        self.layers = nn.ModuleList(self.block() for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.codebook_size)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def predict_masked(self, tokens: Tokens, labels: Labels) -> Logits:
        """Logits of every token, given the label and those that are not masked; `codebook_size` stands for the mask."""
        x = torch.cat([self.label_embedding(labels).unsqueeze(1), self.token_embedding(tokens)], dim=1) + self.positions
        return self.head(self.transform(x)[:, 1:])

    forward = predict_masked

    def block(self) -> nn.Module:
        """One of the `layers`, newly made."""
        return Block(self.config.width, self.config.heads, self.config.mlp_ratio, qk_norm=True)

    def transform(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        """All blocks and the last norm."""
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def draw(self, b: int, *, generator: torch.Generator) -> MaskedDraw:
        """What a training step on `b` images draws: labels to withhold, and masks by the cosine schedule."""
        n = self.config.tokens

        def uniform(*shape: int) -> Tensor:
            return torch.rand(b, *shape, generator=generator, device=generator.device)

        withheld = uniform() < self.config.label_dropout
        counts, ranks = masked_counts(uniform(), n), uniform(n).argsort(1).argsort(1)
        return MaskedDraw(withheld, ranks < counts[:, None], (1 / counts.double().mean()).expand(b))

    def loss(self, tokens: Tokens, labels: Labels, draw: MaskedDraw) -> Scalar:
        """Mean cross entropy of the masked tokens, without the labels that `draw` withholds."""
        masked, weight = draw.masked.to(tokens.device), draw.weight.to(tokens.device)
        labels = labels.masked_fill(draw.withheld.to(labels.device), self.null_class)
        logits = self.predict_masked(tokens.masked_fill(masked, self.codebook_size), labels)
        lost = F.cross_entropy(
            logits.flatten(0, 1).float(),
            tokens.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return (lost.view(tokens.shape) * masked * weight[:, None].to(lost)).sum() / len(tokens)
