"""LlamaGen's class-conditional transformer (Sun et al. 2024, arXiv 2406.06525): Llama over the tokens of an image.

`LlamaGenGPT.presets` lists the files, how they are sampled and the gFID published for that: published, not reproduced
here, and where a file is for 384 pixels, measured on its images after they were made smaller. What one might not expect
(the rest is in `docs/models/llamagen.md`):

- positions are rotary along both axes, rows in the first half of a head's channels; but the class token is not turned:
  its query and key are multiplied by zero, so that all look at it alike;
- the weights tell neither how many tokens an image has (rotary positions need no table) nor the number of heads:
  published files are named after the pixels, 16 to a token, and heads are known for the published widths;
- their guidance interval k guides the first k + 2 tokens: `Sampling(guided_steps=k + 2)`;
- they train with dropout (0.1) of embeddings, attention and MLP; `loss` here only drops labels.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from robustok.adapters.adapter import Adapter
from robustok.adapters.files import Layout
from robustok.adapters.published_generators import PublishedGenerator
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.sampling import Sampling
from robustok.runtime.renaming import State, count_numbered, heads_of, sizes
from robustok.runtime.tensor_files import WRAPPERS

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32}  # of published widths


class LlamaGenGPT(Adapter, LlamaModel):
    """LlamaGen's transformer: a `GeneratorLike` of tokens that can be trained further, or from its config anew."""

    family, kind, config_type = "llamagen-gpt", "generator", Llama
    layout = Layout(entries=("model",))
    prefer = ("model", "module", "state_dict", *WRAPPERS)  # as its sampling script, which leaves `ema` alone
    unused = r"^freqs_cis$"  # a table of positions in old files
    marks = ("tok_embeddings.weight", "layers.0.attention.wqkv.weight")
    table = (
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
    presets: ClassVar = {
        f"c2i-{size.lower()}-{pixels}": PublishedGenerator(
            f"FoundationVision/LlamaGen:c2i_{size}_{pixels}.pt", Sampling(guidance=guidance), gfid
        )
        for size, pixels, guidance, gfid in (
            ("B", 256, 2.0, 5.46),
            ("B", 384, 2.0, 6.09),
            ("L", 256, 2.0, 3.80),
            ("L", 384, 2.0, 3.07),
            ("XL", 384, 1.75, 2.62),
            ("XXL", 384, 1.75, 2.34),
            ("3B", 384, 1.65, 2.18),
        )
    }

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> Llama:
        """Sizes of weights; `tokens` (256) may be given, and `heads` must where the width is of no published model."""
        labels = "cls_embedding.embedding_table.weight"  # absent where a text is the condition
        shapes = sizes(state, labels, "output.weight", "layers.0.feed_forward.w1.weight")
        codes, width = shapes["output.weight"]
        read: dict[str, Any] = {
            "codebook_size": codes,
            "classes": shapes[labels][0] - 1,
            "width": width,
            "depth": count_numbered(state, r"layers\.(\d+)\."),
            "heads": fields.get("heads") or heads_of(width, HEADS),
            "hidden": shapes["layers.0.feed_forward.w1.weight"][0],
        }
        return Llama(**(read | fields))

    @classmethod
    def fields_beside(cls, path: Path) -> dict[str, Any]:
        """The tokens of an image where the file's name ends in its pixels (`c2i_L_384.pt`)."""
        side = re.search(r"_(\d+)$", path.stem)
        return {"tokens": (int(side[1]) // 16) ** 2} if side else {}
