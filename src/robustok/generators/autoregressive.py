"""A class-conditional transformer over an image's tokens: RAR, or a plain raster GPT.

RAR (Yu et al. 2024, arXiv 2411.00776) is trained on randomly permuted orders that are annealed to raster
order. So that a position knows which token it must predict in a permuted order, the place of that token is
added to it (sec. 3.2, target-aware positional embedding). Generation is always in raster order.

The transformer reads [start, label, token, token, ...]; its output at the label is the first token's logits,
its output at the first token is the second's, and so on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.generators.sampling import Logits, Predictor
from robustok.generators.trained_on import recall, told
from robustok.layers import Block, KVCache, Modulation, modulate
from robustok.runtime.checkpoint import load_model, load_weights, model_fingerprint, save_model
from robustok.runtime.configs import from_plain, to_plain
from robustok.shapes import BatchRows, Labels, Scalar, Tokens, drawn


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """A class-conditional autoregressive transformer (RAR-B: width 768, depth 24, heads 16, modulated)."""

    codebook_size: int  # codes of the tokenizer
    tokens: int  # tokens of an image
    classes: int  # labels are in [0, classes)
    width: int = 256  # channels; a head, width / heads of them, is fastest at 64
    depth: int = 6  # transformer blocks
    heads: int = 4  # attention heads of a block
    mlp_ratio: float = 4.0  # hidden width of a block's MLP, in widths
    order: Literal["raster", "random"] = "random"  # random: positions are target-aware, so orders can be permuted
    modulated: bool = False  # adaLN: label and step shift, scale and gate every block
    label_dropout: float = 0.1  # share of training images whose label is withheld, which guidance needs

    def __post_init__(self) -> None:
        for name in ("codebook_size", "tokens", "classes", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, which must be at least 1")
        if self.order not in ("raster", "random"):
            raise ValueError(f"order is {self.order!r}; choose 'raster' or 'random'")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout is {self.label_dropout}; it is a share, choose one between 0 and 1")


def order_share(done: float, start: float = 0.5, end: float = 0.75) -> float:
    """Share of images to train in random order when a share `done` of the training is over.

    1 until `start`, then linearly down to 0 at `end` (RAR sec. 3.2; steps 125,000 and 187,500 of 250,000).
    """
    return 1.0 if done < start else 0.0 if done >= end else (end - done) / (end - start)


class AutoregressiveModel(nn.Module):
    """Tokens one after another, as `Autoregressive` says."""

    def __init__(self, config: Autoregressive):
        super().__init__()
        self.config = config
        self.trained_on: str | None = None  # fingerprint of the tokenizer whose tokens it knows; None: not known
        self.class_names: tuple[str, ...] | None = None  # of the images it was trained on; None: not known
        width, length = config.width, config.tokens + 1  # start, label and all tokens but the last
        self.start = nn.Parameter(torch.empty(1, width))
        self.label_embedding = nn.Embedding(config.classes + 1, width)  # the last one stands for no label
        self.token_embedding = nn.Embedding(config.codebook_size, width)
        self.positions = nn.Parameter(torch.empty(config.tokens + 2, width))  # of start, label and every place
        self.targets = nn.Parameter(torch.empty(config.tokens, width)) if config.order == "random" else None
        self.steps = nn.Parameter(torch.empty(length, width)) if config.modulated else None
        self.layers = nn.ModuleList(
            Block(width, config.heads, config.mlp_ratio, qk_norm=True, modulated=config.modulated)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=not config.modulated)
        self.modulation = Modulation(width, 2) if config.modulated else None
        self.head = nn.Linear(width, config.codebook_size)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and "modulation" not in name:
                nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def device(self) -> torch.device:
        return self.start.device

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
        """16 hex digits that change with the configuration or any weight."""
        return model_fingerprint(self.state_dict(), to_plain(self.config))

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `model.safetensors` and `config.json`, which also keeps what else is said `about` the model."""
        described = {"kind": "generator", "config": to_plain(self.config)}
        save_model(folder, self.state_dict(), described | told(self) | about)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "AutoregressiveModel":
        """The generator in a folder, in evaluation mode. Raises ValueError for anything else that is there."""
        state, saved = load_model(folder, "generator")
        model = cls(from_plain(Autoregressive, saved["config"]))
        load_weights(model, state, folder)
        recall(model, saved)
        return model.eval()

    def forward(self, tokens: Tokens, labels: Labels, orders: Tokens | None = None) -> Logits:
        """Logits of each token, given the label and the tokens before it.

        `orders[:, i]` is the place of the i-th token to come, and its logits are at i (None: raster order).
        """
        if orders is None:
            orders = self._raster(tokens.device)
        else:
            tokens = tokens.gather(1, orders)
        x = torch.cat([self._prefix(labels), self.token_embedding(tokens[:, :-1])], dim=1)
        x = self._transform(x + self._places(orders), labels)
        return self.head(x[:, 1:])

    def loss(
        self,
        tokens: Tokens,
        labels: Labels,
        *,
        order_share: float = 0.0,
        generator: torch.Generator,
        rows: BatchRows | None = None,
    ) -> Scalar:
        """Mean cross entropy of all tokens.

        `generator` draws which labels are withheld, and which images, each with probability `order_share`,
        come in an order drawn at random instead of in raster order. Where the images are `rows` of a batch, it draws
        for the whole batch.
        """
        if order_share > 0 and self.targets is None:
            raise ValueError(
                f"order_share is {order_share}, but a model with order='raster' cannot learn other orders; "
                "set order_share to 0 or build the model with order='random'"
            )
        b, n = tokens.shape

        def uniform(*shape: int) -> Tensor:
            def draw(count: int) -> Tensor:
                return torch.rand(count, *shape, generator=generator, device=generator.device)

            return drawn(draw, rows or b).to(tokens.device)

        labels = labels.masked_fill(uniform() < self.config.label_dropout, self.no_label)
        permuted, permutations = uniform(1) < order_share, uniform(n).argsort(1)
        orders = torch.where(permuted, permutations, self._raster(tokens.device))
        logits = self(tokens, labels, orders)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.gather(1, orders).flatten())

    def predictor(self, labels: Labels) -> Predictor:
        """A function from each image's latest token (None at the start) to the logits of its next one.

        It goes in raster order and remembers what came before: call it once per token.
        """
        caches = [KVCache() for _ in self.layers]
        places = self._places(self._raster(labels.device))

        def predict(token: Tokens | None) -> Logits:
            x = self._prefix(labels) if token is None else self.token_embedding(token)
            first = caches[0].filled
            x = self._transform(x + places[:, first : first + x.shape[1]], labels, caches)
            return self.head(x[:, -1:])

        return predict

    def _raster(self, device: torch.device) -> Tokens:
        return torch.arange(self.config.tokens, device=device).unsqueeze(0)

    def _prefix(self, labels: Labels) -> Float[Tensor, "b 2 c"]:
        start = self.start.expand(len(labels), 1, -1)
        return torch.cat([start, self.label_embedding(labels).unsqueeze(1)], dim=1)

    def _places(self, orders: Tokens) -> Float[Tensor, "b n+1 c"]:
        """What is added to the inputs: each one's own place, and that of its target."""
        prefix = torch.arange(2, device=orders.device).expand(len(orders), 2)
        places = self.positions[torch.cat([prefix, 2 + orders[:, :-1]], dim=1)]
        return places if self.targets is None else places + F.pad(self.targets[orders], (0, 0, 1, 0))

    def _transform(
        self, x: Float[Tensor, "b l c"], labels: Labels, caches: list[KVCache] | None = None
    ) -> Float[Tensor, "b l c"]:
        """All blocks and the last norm; `x` follows what is in the caches."""
        first, length = caches[0].filled if caches else 0, x.shape[1]

        def modulations(modulation: nn.Module | Tensor | None) -> Tensor | None:
            if not isinstance(modulation, nn.Module) or self.steps is None:
                return None
            # the same for images of one class, so with few classes it is cheaper to compute all, then pick
            few = self.label_embedding.num_embeddings < len(labels)
            condition = self.label_embedding.weight if few else self.label_embedding(labels)
            per_label = modulation(condition.unsqueeze(1) + self.steps[first : first + length])
            return per_label[labels] if few else per_label

        for i, block in enumerate(self.layers):
            x = block(x, modulations(block.modulation), causal=True, cache=caches[i] if caches else None)
        last = modulations(self.modulation)
        if last is None:
            return self.norm(x)
        scale, shift = last.chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale)
