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

import re
from pathlib import Path
from typing import Any, ClassVar

import torch

from robustok.adapters.adapter import Adapter
from robustok.adapters.files import Layout
from robustok.adapters.published_generators import PublishedGenerator
from robustok.adapters.renaming import Renames, State, count, heads_of, sizes
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.sampling import Sampling
from robustok.runtime.tensor_files import WRAPPERS

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32}  # of published widths


class LlamaGenGPT(Adapter, LlamaModel):
    """LlamaGen's transformer: a `GeneratorLike` of tokens that can be trained further, or from its config anew."""

    family = "llamagen-gpt"
    kind = "generator"
    config_type = Llama
    published_layout = Layout(entries=("model",))
    prefer = ("model", "module", "state_dict", *WRAPPERS)  # as its sampling script, which leaves `ema` alone
    unused = r"^freqs_cis$"  # a table of positions in old files
    presets: ClassVar = {
        "c2i-b-256": PublishedGenerator("FoundationVision/LlamaGen:c2i_B_256.pt", Sampling(guidance=2.0), 5.46),
        "c2i-b-384": PublishedGenerator("FoundationVision/LlamaGen:c2i_B_384.pt", Sampling(guidance=2.0), 6.09),
        "c2i-l-256": PublishedGenerator("FoundationVision/LlamaGen:c2i_L_256.pt", Sampling(guidance=2.0), 3.80),
        "c2i-l-384": PublishedGenerator("FoundationVision/LlamaGen:c2i_L_384.pt", Sampling(guidance=2.0), 3.07),
        "c2i-xl-384": PublishedGenerator("FoundationVision/LlamaGen:c2i_XL_384.pt", Sampling(guidance=1.75), 2.62),
        "c2i-xxl-384": PublishedGenerator("FoundationVision/LlamaGen:c2i_XXL_384.pt", Sampling(guidance=1.75), 2.34),
        "c2i-3b-384": PublishedGenerator("FoundationVision/LlamaGen:c2i_3B_384.pt", Sampling(guidance=1.65), 2.18),
    }

    @staticmethod
    def matches(state: State) -> bool:
        return "tok_embeddings.weight" in state and "layers.0.attention.wqkv.weight" in state

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
            "depth": count(state, r"layers\.(\d+)\."),
            "heads": fields.get("heads") or heads_of(width, HEADS),
            "hidden": shapes["layers.0.feed_forward.w1.weight"][0],
        }
        return Llama(**(read | fields))

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
    def renames(cls, config: Llama) -> Renames:
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
