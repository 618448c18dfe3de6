"""A class-conditional Llama over the tokens of an image, in raster order: LlamaGen's (Sun et al. 2024).

arXiv 2406.06525, sec. 3.2: Llama's blocks (RMSNorm, SwiGLU, no biases) with rotary positions along both axes. Rows turn
the first half of a head's channels, columns the second; the label's query and key are multiplied by zero, as in the
authors' code, so that all tokens look at it alike. They train with dropout of 0.1, which is not here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.generators.protocol import Logits, Predictor
from robustok.generators.sampling import LabelDraw
from robustok.generators.static_memory import StaticMemory, StaticPredictor
from robustok.generators.token_model import TokenModel
from robustok.layers import Attention, KVCache, Rotation, axial_angles, rotation
from robustok.shapes import Labels, Scalar, Tokens


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A Llama over the tokens of an image (the defaults are LlamaGen's GPT-B at 256 pixels)."""

    codebook_size: int = 16384  # codes of the tokenizer
    tokens: int = 256  # tokens of an image, a square number; 576 at 384 pixels
    classes: int = 1000  # labels are in [0, classes)
    width: int = 768  # channels
    depth: int = 12  # transformer blocks
    heads: int = 12  # attention heads of a block
    hidden: int = 2048  # width of a block's gated MLP: 8/3 of the channels, rounded up to a multiple of 256
    label_dropout: float = 0.1  # share of training images whose label is withheld, which guidance needs

    def __post_init__(self) -> None:
        if math.isqrt(self.tokens) ** 2 != self.tokens:
            raise ValueError(f"{self.tokens} tokens do not form a square; LlamaGen's positions need one, such as 256")


class LlamaBlock(nn.Module):
    """Attention and a gated MLP, each after an RMSNorm, added to the input; no biases."""

    def __init__(self, config: Llama):
        super().__init__()
        width, hidden = config.width, config.hidden
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, config.heads, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b l c"], turn: Rotation, cache: KVCache | None, last: bool = False
    ) -> Float[Tensor, "b _ c"]:
        branch = self.attention(self.norm1(x), causal=True, cache=cache, rotation=turn, last=last)
        x = (x[:, -1:] if last else x) + branch
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LlamaModel(TokenModel):
    """Tokens one after another, as `Llama` says: a `GeneratorLike` of tokens."""

    config: Llama
    kind, config_type = "llama generator", Llama

    def __init__(self, config: Llama):
        super().__init__()
        self.config = config
        self.label_embedding = nn.Embedding(config.classes + 1, config.width)  # the last one stands for no label
        self.token_embedding = nn.Embedding(config.codebook_size, config.width)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.head = nn.Linear(config.width, config.codebook_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.weight)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def blocks(self) -> tuple[int, ...]:
        """One token at a time."""
        return (1,) * self.config.tokens

    def forward(self, tokens: Tokens, labels: Labels) -> Logits:
        """Logits of each token, given the label and the tokens before it."""
        x = torch.cat([self.label_embedding(labels).unsqueeze(1), self.token_embedding(tokens[:, :-1])], dim=1)
        turn = self._rotation(x.device)
        for layer in self.layers:
            x = layer(x, turn, None)
        return self.head(self.norm(x))

    def draw(self, b: int, *, generator: torch.Generator) -> LabelDraw:
        """What a training step on `b` images draws: labels are withheld with probability `label_dropout`."""
        return LabelDraw.of(b, self.config.label_dropout, generator=generator)

    def loss(self, tokens: Tokens, labels: Labels, draw: LabelDraw) -> Scalar:
        """Mean cross entropy of all tokens, without the labels that `draw` withholds."""
        logits = self(tokens, labels.masked_fill(draw.withheld.to(labels.device), self.null_class))
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

    def predictor(self, labels: Labels) -> Predictor:
        """A function from each image's tokens since it was last asked (None: no more) to the logits of its next one.

        It goes in raster order and remembers what came before.
        """
        return self._predictor(
            labels, [KVCache(self.config.tokens) for _ in self.layers], self._rotation(labels.device)
        )

    def static_predictor(self, labels: Labels, memory: StaticMemory) -> StaticPredictor:
        """The same in memory that stays where it is."""
        turns = self._rotation(labels.device)
        turns = Rotation(memory.keep("cos", turns.cos), memory.keep("sin", turns.sin))
        caches = memory.caches(self.config.tokens, len(self.layers), labels.device)
        return StaticPredictor(self._predictor(labels, caches, turns), lambda token: None)

    def _predictor(self, labels: Labels, caches: Sequence[KVCache], turns: Rotation) -> Predictor:
        def predict(tokens: Tokens | None) -> Float[Tensor, "b 1 k"]:
            x = labels.new_empty(len(labels), 0) if tokens is None else tokens
            x = self.token_embedding(x)
            if not caches[0].filled:
                x = torch.cat([self.label_embedding(labels).unsqueeze(1), x], dim=1)
            positions = caches[0].following(x.shape[1])
            turn = Rotation(turns.cos[positions], turns.sin[positions])
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, turn, cache, last=layer is self.layers[-1])
            return self.head(self.norm(x))

        return predict

    def _rotation(self, device: torch.device) -> Rotation:
        """By the place of each input: nothing, not even itself, is left of the class token's query and key."""
        side = math.isqrt(self.config.tokens)
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side))[:-1].float()
        turn = rotation(axial_angles(places, self.config.width // self.config.heads))
        return Rotation(*(F.pad(values, (0, 0, 1, 0)).to(device) for values in turn))
