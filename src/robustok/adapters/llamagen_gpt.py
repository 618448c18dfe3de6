"""LlamaGen's class-conditional transformer (Sun et al. 2024, arXiv 2406.06525): Llama over the tokens of an image.

Weights under the MIT licence on the Hugging Face hub; torch files, the smaller ones with the key `model`, the two
largest flat. `LlamaGenGPT.presets` lists the files, how they are sampled and the gFID published for that: published,
not reproduced here, and where a file is for 384 pixels, measured on its images after they were made smaller.

What one might not expect:

- positions are rotary along both axes, rows in the first half of a head's channels; but the class token is not turned:
  its query and key are multiplied by zero, so that all look at it alike;
- the weights tell neither how many tokens an image has (rotary positions need no table) nor the number of heads:
  published files are named after the pixels, 16 to a token, and heads are known for the published widths;
- their guidance interval k guides the first k + 2 tokens: `Sampling(guided=k + 2)`;
- they train with dropout (0.1) of embeddings, attention and MLP; `loss` here only drops labels.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.files import Adapter, Layout, Published, Renames, State, count, sizes
from robustok.generators.sampling import Logits, Predictor, Sampling
from robustok.layers import Attention, KVCache, Rotation, axial_angles, rotation
from robustok.shapes import Labels, Scalar, Tokens
from robustok.tokenizer.tokenizer import fingerprint

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32}  # of published widths


@dataclass(frozen=True, kw_only=True)
class LlamaGenGPTConfig:
    """The sizes of a LlamaGen transformer; the defaults are those of GPT-B at 256 pixels."""

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


class Block(nn.Module):
    """Attention and a gated MLP, each after an RMSNorm, added to the input; no biases."""

    def __init__(self, config: LlamaGenGPTConfig):
        super().__init__()
        width, hidden = config.width, config.hidden
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, config.heads, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b l c"], turn: Rotation, cache: KVCache | None) -> Float[Tensor, "b l c"]:
        x = x + self.attention(self.norm1(x), causal=True, cache=cache, rotation=turn)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LlamaGenGPT(Adapter):
    """LlamaGen's transformer: a `TokenGenerator` that can be trained further, or from its config anew."""

    family = "llamagen-gpt"
    kind = "generator"
    config_type = LlamaGenGPTConfig
    published = Layout(entries=("model",))
    unused = r"^freqs_cis$"  # a table of positions in old files
    config: LlamaGenGPTConfig
    presets: ClassVar = {
        "c2i-b-256": Published("FoundationVision/LlamaGen:c2i_B_256.pt", Sampling(guidance=2.0), 5.46),
        "c2i-b-384": Published("FoundationVision/LlamaGen:c2i_B_384.pt", Sampling(guidance=2.0), 6.09),
        "c2i-l-256": Published("FoundationVision/LlamaGen:c2i_L_256.pt", Sampling(guidance=2.0), 3.80),
        "c2i-l-384": Published("FoundationVision/LlamaGen:c2i_L_384.pt", Sampling(guidance=2.0), 3.07),
        "c2i-xl-384": Published("FoundationVision/LlamaGen:c2i_XL_384.pt", Sampling(guidance=1.75), 2.62),
        "c2i-xxl-384": Published("FoundationVision/LlamaGen:c2i_XXL_384.pt", Sampling(guidance=1.75), 2.34),
        "c2i-3b-384": Published("FoundationVision/LlamaGen:c2i_3B_384.pt", Sampling(guidance=1.65), 2.18),
    }

    def __init__(self, config: LlamaGenGPTConfig):
        super().__init__()
        self.config = config
        self.label_embedding = nn.Embedding(config.classes + 1, config.width)  # the last one stands for no label
        self.token_embedding = nn.Embedding(config.codebook_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.head = nn.Linear(config.width, config.codebook_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.weight)

    @staticmethod
    def fits(state: State) -> bool:
        return "tok_embeddings.weight" in state and "layers.0.attention.wqkv.weight" in state

    @classmethod
    def configured(cls, state: State, **fields: Any) -> LlamaGenGPTConfig:
        """Sizes of weights; `tokens` (256) may be given, and `heads` must where the width is of no published model."""
        labels = "cls_embedding.embedding_table.weight"  # absent where a text is the condition
        shapes = sizes(state, labels, "output.weight", "layers.0.feed_forward.w1.weight")
        codes, width = shapes["output.weight"]
        read: dict[str, Any] = {
            "codebook_size": codes,
            "classes": shapes[labels][0] - 1,
            "width": width,
            "depth": count(state, r"layers\.(\d+)\."),
            "heads": fields.get("heads") or _heads(width),
            "hidden": shapes["layers.0.feed_forward.w1.weight"][0],
        }
        return LlamaGenGPTConfig(**(read | fields))

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, dtype: torch.dtype | None = torch.float32, **fields: Any
    ) -> "LlamaGenGPT":
        """The model in a published file, whose name ends in the pixels of its images (`c2i_L_384.pt`), or else in 256.

        `tokens` and `heads` may be given. Raises ValueError, as `Adapter.from_checkpoint` does.
        """
        if side := re.search(r"_(\d+)$", Path(path).stem):
            fields = {"tokens": (int(side[1]) // 16) ** 2} | fields
        return super().from_checkpoint(path, dtype=dtype, **fields)

    @classmethod
    def renames(cls, config: LlamaGenGPTConfig) -> Renames:
        return (
            ("^cls_embedding.embedding_table", "^label_embedding"),
            ("^tok_embeddings", "^token_embedding"),
            ("^output", "^head"),
            ("attention.wqkv", "attention.qkv"),
            ("attention.wo", "attention.proj"),
            ("attention_norm", "norm1"),
            ("ffn_norm", "norm2"),
            ("feed_forward.w1", "gate"),
            ("feed_forward.w3", "up"),
            ("feed_forward.w2", "down"),
        )

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @property
    def tokens_per_image(self) -> int:
        return self.config.tokens

    @property
    def blocks(self) -> tuple[int, ...]:
        """One token at a time."""
        return (1,) * self.config.tokens

    @property
    def no_label(self) -> int:
        """The label of an image of unknown class."""
        return self.config.classes

    def fingerprint(self) -> str:
        """16 hex digits that change with any weight."""
        return fingerprint(self.state_dict())

    def forward(self, tokens: Tokens, labels: Labels) -> Logits:
        """Logits of each token, given the label and the tokens before it."""
        x = torch.cat([self.label_embedding(labels).unsqueeze(1), self.token_embedding(tokens[:, :-1])], dim=1)
        turn = self._rotation(x.device)
        for layer in self.layers:
            x = layer(x, turn, None)
        return self.head(self.norm(x))

    def loss(self, tokens: Tokens, labels: Labels, *, generator: torch.Generator) -> Scalar:
        """Mean cross entropy of all tokens; `generator` draws which labels are withheld."""
        withheld = torch.rand(len(labels), generator=generator, device=generator.device) < self.config.label_dropout
        logits = self(tokens, labels.masked_fill(withheld.to(labels.device), self.no_label))
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

    def predictor(self, labels: Labels) -> Predictor:
        """A function from each image's latest token (None at the start) to the logits of its next one.

        It goes in raster order and remembers what came before: call it once per token.
        """
        caches = [KVCache() for _ in self.layers]
        turns = self._rotation(labels.device)

        def predict(token: Tokens | None) -> Logits:
            x = self.label_embedding(labels).unsqueeze(1) if token is None else self.token_embedding(token)
            place = slice(caches[0].filled, caches[0].filled + 1)
            turn = Rotation(turns.cos[place], turns.sin[place])
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, turn, cache)
            return self.head(self.norm(x))

        return predict

    def _rotation(self, device: torch.device) -> Rotation:
        """By the place of each input: nothing, not even itself, is left of the class token's query and key."""
        side = math.isqrt(self.config.tokens)
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side))[:-1].float()
        turn = rotation(axial_angles(places, self.config.width // self.config.heads))
        return Rotation(*(F.pad(values, (0, 0, 1, 0)).to(device) for values in turn))


def _heads(width: int) -> int:
    if width not in HEADS:
        raise ValueError(f"weights {width} wide do not tell their attention heads; pass heads, a divisor of {width}")
    return HEADS[width]
