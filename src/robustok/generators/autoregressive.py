"""A class-conditional transformer over an image's tokens: RAR, or a plain raster GPT.

RAR (Yu et al. 2024, arXiv 2411.00776) is trained on randomly permuted orders that are annealed to raster
order. So that a position knows which token it must predict in a permuted order, the place of that token is
added to it (sec. 3.2, target-aware positional embedding). Generation is always in raster order.

The transformer reads [start, label, token, token, ...]; its output at the label is the first token's logits,
its output at the first token is the second's, and so on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustok.generators.protocol import Logits, Predictor
from robustok.generators.static_memory import StaticMemory, StaticPredictor
from robustok.generators.token_model import TokenModel
from robustok.layers import Block, KVCache, Modulation, modulate
from robustok.runtime.configs import check_choices, check_least, check_shares
from robustok.shapes import Labels, Scalar, Tokens


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
        check_least(self, 1, "codebook_size", "tokens", "classes", "width", "depth", "heads")
        check_choices(self)
        check_shares(self, "label_dropout")


def random_order_fraction(done: float, start: float = 0.5, end: float = 0.75) -> float:
    """Share of images to train in random order when a share `done` of the training is over.

    1 until `start`, then linearly down to 0 at `end` (RAR sec. 3.2; steps 125,000 and 187,500 of 250,000).
    """
    return 1.0 if done < start else 0.0 if done >= end else (end - done) / (end - start)


class TrainingDraw(NamedTuple):
    """What is random in a training step: of each image, whether its label is withheld, and the order of its tokens."""

    withheld: Bool[Tensor, " b"]
    orders: Tokens  # places of the tokens in the order in which they come


class AutoregressiveModel(TokenModel):
    """Tokens one after another, as `Autoregressive` says."""

    kind, config_type = "generator", Autoregressive
    config: Autoregressive

    def __init__(self, config: Autoregressive):
        super().__init__()
        self.config = config
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
    def blocks(self) -> tuple[int, ...]:
        """One token at a time."""
        return (1,) * self.config.tokens

    def forward(self, tokens: Tokens, labels: Labels, orders: Tokens | None = None) -> Logits:
        """Logits of each token, given the label and the tokens before it.

        `orders[:, i]` is the place of the i-th token to come, and its logits are at i (None: raster order).
        """
        if orders is None:
            orders = self._raster(tokens.device)
        else:
            tokens = tokens.gather(1, orders)
        x = torch.cat([self._prefix(labels), self.token_embedding(tokens[:, :-1])], dim=1)

        def modulations(modulation: nn.Module) -> Tensor:
            assert self.steps is not None, "a modulated model embeds its steps"
            # the same for images of one class, so with few classes it is cheaper to compute all, then pick
            few = self.label_embedding.num_embeddings < len(labels)
            condition = self.label_embedding.weight if few else self.label_embedding(labels)
            per_label = modulation(condition.unsqueeze(1) + self.steps)
            return per_label[labels] if few else per_label

        x = self._transform(x + self._places(orders), modulations)
        return self.head(x[:, 1:])

    def draw(self, b: int, *, random_order_fraction: float = 0.0, generator: torch.Generator) -> TrainingDraw:
        """What a training step on `b` images draws: labels are withheld with probability `label_dropout`.

        Each image comes with probability `random_order_fraction` in an order drawn at random instead of in raster
        order. Raises ValueError where the model knows raster order only.
        """
        if random_order_fraction > 0 and self.targets is None:
            raise ValueError(
                f"random_order_fraction is {random_order_fraction}, but a model with order='raster' cannot learn "
                "other orders; set random_order_fraction to 0 or build the model with order='random'"
            )

        def uniform(*shape: int) -> Tensor:
            return torch.rand(b, *shape, generator=generator, device=generator.device)

        withheld = uniform() < self.config.label_dropout
        permuted, permutations = uniform(1) < random_order_fraction, uniform(self.config.tokens).argsort(1)
        return TrainingDraw(withheld, torch.where(permuted, permutations, self._raster(generator.device)))

    def loss(self, tokens: Tokens, labels: Labels, draw: TrainingDraw) -> Scalar:
        """Mean cross entropy of all tokens, in the orders and without the labels that `draw` says."""
        orders = draw.orders.to(tokens.device)
        logits = self(tokens, labels.masked_fill(draw.withheld.to(labels.device), self.null_class), orders)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.gather(1, orders).flatten())

    def predictor(self, labels: Labels) -> Predictor:
        """A function from each image's tokens since it was last asked (None: no more) to the logits of its next one.

        It goes in raster order and remembers what came before.
        """
        caches = [KVCache(self.config.tokens + 1) for _ in self.layers]
        return self._predictor(labels, caches, self._places(self._raster(labels.device)), _Modulations(self, labels))

    def static_predictor(self, labels: Labels, memory: StaticMemory) -> StaticPredictor:
        """The same in memory that stays where it is."""
        caches = memory.caches(self.config.tokens + 1, len(self.layers), labels.device)
        places = memory.keep("places", self._places(self._raster(labels.device)))
        modulations = _Modulations(self, labels, memory)

        def ahead(token: int) -> None:
            modulations.of_positions(token + 1 if token else 0, token + 2)  # the first reads two: start and label

        return StaticPredictor(self._predictor(labels, caches, places, modulations), ahead)

    def _predictor(
        self, labels: Labels, caches: Sequence[KVCache], places: Float[Tensor, "1 n c"], modulations: "_Modulations"
    ) -> Predictor:
        def predict(tokens: Tokens | None) -> Float[Tensor, "b 1 k"]:
            x = self.token_embedding(labels.new_empty(len(labels), 0) if tokens is None else tokens)
            if not caches[0].filled:
                x = torch.cat([self._prefix(labels), x], dim=1)
            here = caches[0].following(x.shape[1])
            if isinstance(here, slice):
                modulations.of_positions(here.start, here.stop)
            x = self._transform(x + places[:, here], lambda modulation: modulations(modulation, here), caches)
            return self.head(x)

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
        self,
        x: Float[Tensor, "b l c"],
        modulations: Callable[[nn.Module], Tensor],
        caches: Iterable[KVCache | None] | None = None,
    ) -> Float[Tensor, "b _ c"]:
        """All blocks and the last norm; `x` follows what is in the caches, and with them only its end comes out."""
        for block, cache in zip(self.layers, caches or repeat(None, len(self.layers)), strict=True):
            assert isinstance(block, Block)
            parts = None if block.modulation is None else modulations(block.modulation)
            x = block(x, parts, causal=True, cache=cache, last=cache is not None and block is self.layers[-1])
        if self.modulation is None:
            return self.norm(x)
        parts = modulations(self.modulation)
        scale, shift = (parts[:, -1:] if x.shape[1] < parts.shape[1] else parts).chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale)


class _Modulations:
    """What each of a model's modulations makes of labels and positions: shift, scale and gate, (b l parts*c).

    It is the same for images of one label, so it is computed once per label, and for some positions ahead: a matrix
    product of a few rows takes nearly as long as one of hundreds. In a RAR it is a third of all products.
    """

    rows = 512  # of a product, up to which positions are computed ahead

    def __init__(self, model: AutoregressiveModel, labels: Labels, memory: StaticMemory | None = None):
        self.model, self.memory, (self.labels, self.label_of) = model, memory, labels.unique(return_inverse=True)
        self.start = self.stop = 0
        self.held: dict[nn.Module, Tensor] = {}
        if memory is not None:  # as for as many labels as there may be
            labels_at_most = min(len(labels), model.config.classes + 1)
            self.labels = F.pad(self.labels, (0, labels_at_most - len(self.labels)))
            self.label_of = memory.keep("label of", self.label_of)

    def of_positions(self, first: int, last: int) -> None:
        """Make ready for the positions that are asked for next."""
        if last <= self.stop:
            return
        ahead = max(last - first, self.rows // len(self.labels), 1 if self.memory is None else 2)
        self.start, self.stop, self.held = first, min(first + ahead, self.model.config.tokens + 1), {}
        if self.memory is not None:
            self.start_at = self.memory.keep("start", self.label_of.new_full((1,), first))
            made = [part for part in self.model.modules() if isinstance(part, Modulation)]
            for i, part in enumerate(made):
                here = F.pad(self._computed(part), (0, 0, 0, first + ahead - self.stop))
                self.held[part] = self.memory.keep(f"modulation {i}", here)

    def _computed(self, modulation: nn.Module) -> Tensor:
        assert self.model.steps is not None, "a modulated model embeds its steps"
        labels = self.model.label_embedding(self.labels).unsqueeze(1)
        return modulation(labels + self.model.steps[self.start : self.stop])

    def __call__(self, modulation: nn.Module, here: slice | Tensor) -> Tensor:
        """Of these positions."""
        if isinstance(here, Tensor):
            return self.held[modulation].index_select(1, here - self.start_at).index_select(0, self.label_of)
        if modulation not in self.held:
            self.held[modulation] = self._computed(modulation)
        held = self.held[modulation][:, here.start - self.start : here.stop - self.start]
        return held.index_select(0, self.label_of)
