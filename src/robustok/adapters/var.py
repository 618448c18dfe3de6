"""VAR (Tian et al. 2024, arXiv 2404.02905): a transformer that predicts a whole token map at a time, coarse to fine.

`VAR.presets` lists the files, how they are sampled and the gFID published for that: published, not reproduced here.
d36 is for 512 pixels, and its gFID is of these. Between two scales VAR reads the sum of the maps so far, so it needs
its tokenizer's codes and smoothing, which its own files lack:

    tokenizer = VARTokenizer.from_checkpoint("vae_ch160v4096z32.pth")
    generator = VAR.from_checkpoint("var_d16.pth", tokenizer=tokenizer)      # or the tokenizer's file

It keeps a frozen copy of them, which `save_pretrained` saves and `to_checkpoint` leaves out. A tokenizer whose decoder
was tuned still fits: its codes are the same. What one might not expect (the rest is in `docs/models/var.md`):

- guidance rises with the scale: at the first there is none, at the last 1 + cfg, with the authors' cfg (1.5);
- their top_p of 0 means no limit, which is 1 here; scores are with top_k 900 and top_p 0.96;
- queries and keys are normalized, with a learned factor for each head, at most 100, in place of 1 / sqrt(channels); the
  bias of the keys is zero and not learned, but in the file;
- the levels and the mask of attention that a file holds are worked out from the scales and written back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustok.adapters.adapter import Adapter
from robustok.adapters.model_names import located
from robustok.adapters.published_generators import PublishedGenerator
from robustok.adapters.var_vq import SMOOTHING, Codes, VARTokenizer
from robustok.adapters.vqgan import CODES
from robustok.generators.protocol import Logits, Predictor
from robustok.generators.sampling import LabelDraw, Sampling
from robustok.layers import MLP, KVCache, Modulation, modulate
from robustok.runtime.renaming import State, count_numbered, sizes
from robustok.shapes import Labels, Scalar, Tokens
from robustok.tokenizer.encoder import to_sequence
from robustok.tokenizer.quantizer import MultiScale

Embedded: TypeAlias = Float[Tensor, "b l c"]
Label: TypeAlias = Float[Tensor, "b 1 c"]
Parts: TypeAlias = Float[Tensor, "b 1 _"]  # gates, scales and shifts, one after the other
SAMPLING = Sampling(top_k=900, top_p=0.96, guidance=2.5, schedule="ramp")  # cfg 1.5
LARGEST = math.log(100)  # of the logarithms by which queries are multiplied


@dataclass(frozen=True, kw_only=True)
class VARConfig:
    """The sizes of a VAR; the defaults are those of d16."""

    codes: Codes = field(default_factory=Codes)  # of its tokenizer
    classes: int = 1000  # labels are in [0, classes)
    width: int = 1024  # channels
    depth: int = 16  # transformer blocks
    heads: int = 16  # attention heads of a block
    hidden: int = 4096  # width of a block's MLP
    normalized: bool = True  # queries and keys are of length 1 (attn_l2_norm)
    shared: bool = False  # all blocks share one modulation, each with its own offset (shared_aln, of d36)
    label_dropout: float = 0.1  # fraction of training images whose label is withheld, which guidance needs


class VARAttention(nn.Module):
    """Multi-head self-attention; what is normalized is so in each head."""

    k_bias: Tensor

    def __init__(self, config: VARConfig):
        super().__init__()
        c, self.heads = config.width, config.heads
        self.qkv, self.proj = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("k_bias", torch.zeros(c))
        self.scale = nn.Parameter(torch.full((1, config.heads, 1, 1), math.log(4))) if config.normalized else None

    def forward(self, x: Embedded, mask: Tensor | None, cache: KVCache | None) -> Embedded:
        qkv = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.k_bias, self.v_bias]))
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b heads l e)
        factor = 0.25 * q.shape[-1] ** -0.5
        if self.scale is not None:
            q, k, factor = F.normalize(q, dim=-1) * self.scale.clamp_max(LARGEST).exp(), F.normalize(k, dim=-1), 1.0
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:
            x = cache.attend(q, k, v, causal=False, scale=factor)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor)
        return self.proj(x.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention, then MLP, each gated, of a norm that the label scales and shifts."""

    def __init__(self, config: VARConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.attention = VARAttention(config)
        self.mlp = MLP(config.width, config.hidden, "tanh")
        self.modulation = None if config.shared else Modulation(config.width, 6)
        self.offset = nn.Parameter(torch.zeros(1, 1, 6, config.width)) if config.shared else None

    def forward(
        self, x: Embedded, label: Label, shared: Parts | None, mask: Tensor | None, cache: KVCache | None
    ) -> Embedded:
        parts = shared if self.modulation is None else self.modulation(label)
        assert parts is not None, "a layer without a modulation of its own is given the shared one"
        parts = parts if self.offset is None else parts + self.offset.flatten(2)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts.chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulate(self.norm(x), shift1, scale1), mask, cache)
        return x + gate2 * self.mlp(modulate(self.norm(x), shift2, scale2))


class VAR(Adapter):
    """A VAR: a `GeneratorLike` of tokens whose blocks are scales, that can be trained further or anew."""

    family, kind, config_type = "var", "generator", VARConfig
    marks = ("word_embed.weight", "lvl_1L", "pos_1LC")
    table = (
        ("^word_embed", "^word"),
        ("^class_emb", "^label_embedding"),
        ("^pos_start", "^start"),
        ("^pos_1LC", "^positions"),
        ("^lvl_embed", "^level"),
        ("^shared_ada_lin.1", "^modulation.linear"),
        ("^head_nm.ada_lin.1", "^head_modulation.linear"),
        ("^blocks.*", "^layers.*"),
        ("attn", "attention"),
        ("attention.mat_qkv", "attention.qkv"),
        ("attention.zero_k_bias", "attention.k_bias"),
        ("attention.scale_mul_1H11", "attention.scale"),
        ("layers.*.ffn", "layers.*.mlp"),
        ("layers.*.ada_gss", "layers.*.offset"),
        ("layers.*.ada_lin.1", "layers.*.modulation.linear"),
        *CODES,
        *SMOOTHING,
    )
    config: VARConfig
    sampling: ClassVar = SAMPLING  # of any size
    presets: ClassVar = {
        "var-d16": PublishedGenerator("FoundationVision/var:var_d16.pth", SAMPLING, 3.55),
        "var-d20": PublishedGenerator("FoundationVision/var:var_d20.pth", SAMPLING, 2.95),
        "var-d24": PublishedGenerator("FoundationVision/var:var_d24.pth", SAMPLING, 2.33),
        "var-d30": PublishedGenerator("FoundationVision/var:var_d30.pth", SAMPLING, 1.97),
        "var-d36": PublishedGenerator("FoundationVision/var:var_d36.pth", SAMPLING, None),  # 2.63 at 512 pixels
    }

    def __init__(self, config: VARConfig):
        super().__init__()
        c, codes, blocks = config.width, config.codes, config.codes.blocks
        self.config, self.null_class = config, config.classes  # the label of an image of unknown class
        self.codebook_size, self.tokens_per_image, self.blocks = codes.codebook_size, sum(blocks), blocks
        self.word = nn.Linear(codes.width, c)
        self.label_embedding = nn.Embedding(config.classes + 1, c)  # the last one stands for no label
        self.start = nn.Parameter(torch.empty(1, blocks[0], c))
        self.positions = nn.Parameter(torch.empty(1, sum(blocks), c))
        self.level = nn.Embedding(len(blocks), c)
        self.modulation = Modulation(c, 6) if config.shared else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(c, eps=1e-6, elementwise_affine=False)
        self.head_modulation, self.head = Modulation(c, 2), nn.Linear(c, codes.codebook_size)
        self.quantizer = MultiScale(codes).requires_grad_(False)
        for weight in (self.start, self.positions, self.level.weight, self.label_embedding.weight):
            nn.init.trunc_normal_(weight, std=(3 * c) ** -0.5)

    @classmethod
    def beside(cls, tokenizer: VARTokenizer, *, width: int, **fields: Any) -> "VAR":
        """A new one for a tokenizer, to be trained; `fields` of `VARConfig`, by default heads of 64 channels."""
        fields = {"heads": width // 64, "hidden": 4 * width} | fields
        model = cls(VARConfig(codes=tokenizer.config.codes, width=width, **fields))
        model.quantizer.load_state_dict(tokenizer.quantizer.state_dict())
        return model

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, tokens: Tokens, labels: Labels) -> Logits:
        """Logits of each token, given the label and the tokens of all coarser scales."""
        label = self.label_embedding(labels).unsqueeze(1)
        x = torch.cat([label + self.start, self.word(self.quantizer.next_inputs(tokens))], dim=1) + self._positions()
        levels = _levels(self.config.codes).to(x.device)
        return self._head(self._transform(x, label, mask=levels[:, None] >= levels), label)

    def draw(self, b: int, *, generator: torch.Generator) -> LabelDraw:
        """Draw what is random in a training step on `b` images: labels are withheld as `label_dropout` says."""
        return LabelDraw.of(b, self.config.label_dropout, generator=generator)

    def loss(self, tokens: Tokens, labels: Labels, draw: LabelDraw) -> Scalar:
        """Mean cross entropy of all tokens, without the labels that `draw` withholds."""
        logits = self(tokens, labels.masked_fill(draw.withheld.to(labels.device), self.null_class))
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

    def predictor(self, labels: Labels) -> Predictor:
        """A function from each image's scales since it was last asked (None: no more) to the logits of all of the next.

        It remembers what came before.
        """
        label = self.label_embedding(labels).unsqueeze(1)
        caches = [KVCache(self.tokens_per_image) for _ in self.layers]
        positions, total, scale = self._positions().split(self.blocks, dim=1), torch.zeros(()), -1

        def predict(tokens: Tokens | None) -> Float[Tensor, "b m k"]:
            nonlocal scale, total
            if scale < 0:
                scale, x = 0, self._transform(label + self.start + positions[0], label, caches=caches)
            while tokens is not None and tokens.shape[1]:
                latest, tokens = tokens.tensor_split([self.blocks[scale]], dim=1)
                total = total + self.quantizer.spread(latest, scale)
                scale += 1
                x = self.word(to_sequence(self.quantizer.shrink(total, scale)))
                x = self._transform(x + positions[scale], label, caches=caches)
            return self._head(x, label)

        return predict

    def _transform(
        self, x: Embedded, label: Label, mask: Tensor | None = None, caches: list[KVCache] | None = None
    ) -> Embedded:
        shared = None if self.modulation is None else self.modulation(label)
        for i, layer in enumerate(self.layers):
            x = layer(x, label, shared, mask, None if caches is None else caches[i])
        return x

    def _head(self, x: Embedded, label: Label) -> Logits:
        scale, shift = self.head_modulation(label).chunk(2, dim=-1)
        return self.head(modulate(self.norm(x), shift, scale))

    def _positions(self) -> Embedded:
        """The position and the level of every input, which are added to it."""
        return self.positions + self.level(_levels(self.config.codes).to(self.device))

    @classmethod
    def from_state(cls, state: State, *, tokenizer: VARTokenizer | str | Path | None = None, **rest: Any) -> "VAR":
        """The model of weights by their original names.

        `tokenizer` is VAR's, or the name of its file: needed unless `state` holds the tensors `quantize.*` of one.
        Raises ValueError for one of other scales, and as `Adapter.from_state` does.
        """
        if tokenizer is not None and cls.matches(state):
            scales = rest.get("scales") or _scales(state)
            if not isinstance(tokenizer, VARTokenizer):
                tokenizer = _tokenizer(tokenizer, scales)
            codes = tokenizer.config.codes
            if codes.scales != tuple(scales):
                raise ValueError(
                    f"this VAR predicts maps with sides {tuple(scales)} and the tokenizer makes {codes.scales}; "
                    "load the tokenizer with the scales of the VAR"
                )
            codes_named_as_theirs = ("quantize.embedding.", "quantize.quant_resi.")
            state = {**state, **{k: w for k, w in tokenizer.to_state().items() if k.startswith(codes_named_as_theirs)}}
            rest = {"smoothing": codes.smoothing} | rest
        return super().from_state(state, **rest)

    @classmethod
    def config_from_state(
        cls, state: State, *, scales: Sequence[int] | None = None, heads: int | None = None, smoothing: float = 0.5
    ) -> VARConfig:
        """Sizes of weights; they tell `scales`, and `heads` of attention where queries and keys are normalized (else 64
        channels make a head). `smoothing` is the tokenizer's.
        """
        book, word, hidden = "quantize.embedding.weight", "word_embed.weight", "blocks.0.ffn.fc1.weight"
        if book not in state:
            raise ValueError(
                "VAR reads sums of its tokenizer's codes, which its own files lack; pass tokenizer=, a VARTokenizer or "
                "its file vae_ch160v4096z32.pth"
            )
        shape = sizes(state, word, hidden, "class_emb.weight")
        width, scale = shape[word][0], shape.get("blocks.0.attn.scale_mul_1H11")
        return VARConfig(
            codes=Codes.of(state, scales or _scales(state), smoothing),
            classes=shape["class_emb.weight"][0] - 1,
            width=width,
            depth=count_numbered(state, r"blocks\.(\d+)\."),
            heads=scale[1] if scale else heads or max(1, width // 64),
            hidden=shape[hidden][0],
            normalized=scale is not None,
            shared="shared_ada_lin.1.weight" in state,
        )

    @classmethod
    def ours(cls, state: State, config: VARConfig) -> dict[str, Tensor]:
        return super().ours({name: weight for name, weight in state.items() if name not in _worked_out(config)}, config)

    @classmethod
    def theirs(cls, state: State, config: VARConfig) -> dict[str, Tensor]:
        return super().theirs(state, config) | _worked_out(config)

    def to_state(self) -> dict[str, Tensor]:
        """The weights by their original names, without those of the tokenizer."""
        return {name: weight for name, weight in self._saved_state().items() if not name.startswith("quantize.")}

    def _saved_state(self) -> dict[str, Tensor]:
        return super().to_state()


def _levels(codes: Codes) -> Int[Tensor, " n"]:
    """The scale of each token."""
    return torch.cat([torch.full((size,), scale) for scale, size in enumerate(codes.blocks)])


def _worked_out(config: VARConfig) -> dict[str, Tensor]:
    """Tensors that files hold beside the weights: the scale of each token, and who may look at whom."""
    levels = _levels(config.codes)
    mask = torch.zeros(len(levels), len(levels)).masked_fill(levels[:, None] < levels, -math.inf)
    return {"lvl_1L": levels[None], "attn_bias_for_masking": mask[None, None]}


def _scales(state: State) -> tuple[int, ...]:
    """The sides of the token maps, by the scale of each token. Raises ValueError where they are not square."""
    sizes = state["lvl_1L"].flatten().bincount().tolist()
    if any(math.isqrt(size) ** 2 != size for size in sizes):
        raise ValueError(f"lvl_1L tells of scales of {sizes} tokens, which form no square maps; give a VAR's own file")
    return tuple(math.isqrt(size) for size in sizes)


def _tokenizer(name: str | Path, scales: Sequence[int]) -> VARTokenizer:
    """The tokenizer of a name."""
    path = located(name).path
    if path.is_dir():
        return VARTokenizer.from_pretrained(path)
    return VARTokenizer.from_checkpoint(path, scales=scales)
