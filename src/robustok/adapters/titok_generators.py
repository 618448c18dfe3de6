"""TiTok's masked generators (Yu et al. 2024, arXiv 2406.07550): a BERT and a U-ViT over its 32 to 128 tokens.

The classes' `presets` list the files, how they are sampled and the gFID published for that: published, not reproduced
here. What one might not expect (the rest is in `docs/models/titok.md`):

- one table holds the codes, the mask, the classes and "no class"; the label is the first position;
- the BERT is one to the letter: norms come after each branch (eps 1e-12) and before the first block, every position is
  of segment 0, and after the last block comes the head. It has a second segment that nothing uses, which is kept;
- the U-ViT's second half is given what its first half made, the last first (Bao et al. 2023, arXiv 2209.12152);
- their guidance scale s is 1 + s here, but for "power-cosine", where it is the same;
- weights tell not the number of heads: it is known for the published widths, or from their config.json;
- they train with masks by the arccosine, a tenth of the loss on tokens that are not masked, and dropout (0.1); `loss`
  here is MaskGIT's.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.adapter import Adapter
from robustok.adapters.files import settings_beside
from robustok.adapters.published_generators import PublishedGenerator
from robustok.generators.masked import Masked, MaskedModel
from robustok.generators.unmasking import MaskedSampling
from robustok.layers import MLP, Attention, Block
from robustok.runtime.renaming import Renames, State, count_numbered, fuse, heads_of, sizes, unfuse

HEADS = {768: 16, 1024: 16}  # of published widths
QKV = ("query", "key", "value")
Sequence = Float[Tensor, "b l c"]


def _sampling(steps: int, noise: float, guidance: float, **schedule: Any) -> MaskedSampling:
    """As the authors' script for 50,000 images has it."""
    how: dict[str, Any] = {"mask_schedule": "arccos", "noise_on": "logits", "temperature_annealing": True}
    return MaskedSampling(steps=steps, choice_temperature=noise, guidance=guidance, **how, **schedule)


def _published(size: str, tokens: int, sampling: MaskedSampling, gfid: float) -> dict[str, PublishedGenerator]:
    """The same weights are in two places."""
    torch_file = f"fun-research/TiTok:generator_titok_{size}{tokens}.bin"
    whole = f"yucornetto/generator_titok_{size}{tokens}_imagenet"
    name = f"titok-{size}-{tokens}"
    return {
        name: PublishedGenerator(whole, sampling, gfid),
        f"{name}-torch": PublishedGenerator(torch_file, sampling, gfid),
    }


class TiTokGenerator(Adapter, MaskedModel):
    """What both have in common: a `GeneratorLike` of tokens that can be trained further."""

    kind, config_type = "generator", Masked
    sampling: ClassVar = MaskedSampling(steps=8, mask_schedule="arccos", noise_on="logits")
    codes: ClassVar[str]  # their names of the table of codes, mask, classes and no class,
    places: ClassVar[str]  # of positions,
    logits: ClassVar[str]  # of the head,
    hidden: ClassVar[str]  # and of the first map of a block's MLP

    @classmethod
    def fields_beside(cls, path: Path) -> dict[str, Any]:
        """The heads, if the authors' configuration beside the file says them."""
        match settings_beside(path):
            case {"model": {"generator": {"num_attention_heads": int(heads)}}}:
                return {"heads": heads}
        return {}

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> Masked:
        """Sizes of weights; `heads` must be given where the width is of no published model."""
        shapes = sizes(state, cls.codes, cls.places, cls.logits, cls.hidden)
        (codes, width), rows = shapes[cls.logits], shapes[cls.codes][0]
        if rows < codes + 3:
            raise ValueError(
                f"{cls.codes} has {rows} rows, {cls.logits} {codes}: {codes} codes, a mask, classes and no class were "
                "expected; give the file that belongs to this family"
            )
        read: dict[str, Any] = {
            "codebook_size": codes,
            "tokens": shapes[cls.places][-2] - 1,
            "classes": rows - codes - 2,
            "width": width,
            "depth": cls.depth_of(state),
            "heads": fields.get("heads") or heads_of(width, HEADS),
            "mlp_ratio": shapes[cls.hidden][0] / width,
        }
        return Masked(**(read | fields))

    @classmethod
    def depth_of(cls, state: State) -> int:
        """Blocks of such weights."""
        raise NotImplementedError

    @classmethod
    def ours(cls, state: State, config: Masked) -> dict[str, Tensor]:
        rest = dict(state)
        codes, labels = rest.pop(cls.codes).split([config.codebook_size + 1, config.classes + 1])
        own = {
            "token_embedding.weight": codes,
            "label_embedding.weight": labels,
            "positions": rest.pop(cls.places).view(config.tokens + 1, config.width),
        }
        return own | super().ours(rest, config)

    @classmethod
    def theirs(cls, state: State, config: Masked) -> dict[str, Tensor]:
        rest = dict(state)
        own = {
            cls.codes: torch.cat([rest.pop("token_embedding.weight"), rest.pop("label_embedding.weight")]),
            cls.places: rest.pop("positions"),
        }
        return own | super().theirs(rest, config)


class PostNormBlock(nn.Module):
    """A block of the first transformers and of BERT: the norm is of each branch added to its input."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads), nn.LayerNorm(width, eps=1e-12)
        self.mlp, self.norm2 = MLP(width, hidden), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Sequence) -> Sequence:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class TiTokBERT(TiTokGenerator):
    """The generator of TiTok-L-32 and B-64 (ImageBert)."""

    family = "titok-bert"
    codes, places = "model.embeddings.word_embeddings.weight", "model.embeddings.position_embeddings.weight"
    logits, hidden = "model.lm_head.weight", "model.encoder.layer.0.intermediate.dense.weight"
    marks = (codes, logits)
    unused = r"^model\.embeddings\.(position|token_type)_ids$"  # 0, 1, 2 ... and zeros, in files of older versions
    table = (
        ("^model.encoder.layer.*", "^layers.*"),
        ("^model.embeddings.LayerNorm", "^norm"),
        ("^model.embeddings.token_type_embeddings.weight", "^segments"),
        ("^model.lm_head", "^head"),
        ("attention.self.qkv", "attention.qkv"),
        ("attention.output.dense", "attention.proj"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("output.LayerNorm", "norm2"),
    )
    presets: ClassVar = _published("l", 32, _sampling(8, 9.5, 5.5), 2.77) | _published(
        "b", 64, _sampling(8, 11.0, 4.0), 2.48
    )

    def __init__(self, config: Masked):
        super().__init__(config)
        self.norm.eps = 1e-12
        self.segments = nn.Parameter(0.02 * torch.randn(2, config.width))

    def block(self) -> nn.Module:
        config = self.config
        return PostNormBlock(config.width, config.heads, round(config.mlp_ratio * config.width))

    def transform(self, x: Sequence) -> Sequence:
        """The norm, and all blocks."""
        x = self.norm(x + self.segments[0])
        for layer in self.layers:
            x = layer(x)
        return x

    @classmethod
    def depth_of(cls, state: State) -> int:
        return count_numbered(state, r"model\.encoder\.layer\.(\d+)\.")

    @classmethod
    def ours(cls, state: State, config: Masked) -> dict[str, Tensor]:
        return super().ours(fuse(state, QKV, "qkv"), config)

    @classmethod
    def theirs(cls, state: State, config: Masked) -> dict[str, Tensor]:
        return unfuse(super().theirs(state, config), QKV, "qkv")


class TiTokUViT(TiTokGenerator):
    """The generator of TiTok-S-128 (UViTBert)."""

    family = "titok-uvit"
    codes, places, logits, hidden = "embeddings.weight", "pos_embed", "lm_head.weight", "mid_block.mlp.fc1.weight"
    marks = (codes, logits, "mid_block.attn.qkv.weight")
    presets: ClassVar = _published("s", 128, _sampling(64, 2.8, 6.9, schedule="power-cosine", power=3.0), 1.97)

    def __init__(self, config: Masked):
        if config.depth % 2 == 0:
            raise ValueError(f"depth is {config.depth}; a U-ViT has as many blocks after the middle one as before it")
        super().__init__(config)
        self.skips = nn.ModuleList(nn.Linear(2 * config.width, config.width) for _ in range(config.depth // 2))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5

    def block(self) -> nn.Module:
        config = self.config
        block = Block(config.width, config.heads, config.mlp_ratio)
        block.attention.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        return block

    def transform(self, x: Sequence) -> Sequence:
        """All blocks, those of the second half of what came before and of their counterparts' output, and the norm."""
        made: list[Sequence] = []
        half = len(self.skips)
        for number, layer in enumerate(self.layers):
            if number > half:
                x = self.skips[number - half - 1](torch.cat([x, made.pop()], dim=-1))
            x = layer(x)
            if number < half:
                made.append(x)
        return self.norm(x)

    @classmethod
    def depth_of(cls, state: State) -> int:
        return 1 + 2 * count_numbered(state, r"in_blocks\.(\d+)\.")

    @classmethod
    def renames(cls, config: Masked) -> Renames:
        half = config.depth // 2
        return (
            ("^out_blocks.*.skip_linear", "^skips.*"),
            ("^in_blocks.*", "^layers.*"),
            ("^mid_block", f"^layers.{half}"),
            *((f"^out_blocks.{number}", f"^layers.{half + 1 + number}") for number in range(half)),
            ("^lm_head", "^head"),
            ("attn", "attention"),
        )

    @classmethod
    def theirs(cls, state: State, config: Masked) -> dict[str, Tensor]:
        named = super().theirs(state, config)
        return named | {cls.places: named[cls.places].unsqueeze(0)}
