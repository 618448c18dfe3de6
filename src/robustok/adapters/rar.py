"""RAR (Yu et al. 2024, arXiv 2411.00776): our autoregressive transformer under its authors' names.

Its weights are for the tokens of the MaskGIT-VQGAN, those of `qiuk6/RobusTok` for RobusTok's tokenizer. `RAR.presets`
lists the files, how they are sampled and the gFID published for that: published, not reproduced here. What one might
not expect (the rest is in `docs/models/maskgit-rar.md`):

- the random orders of training are a matter of `AutoregressiveModel.loss`; generation is in raster order;
- one table holds the codes, a mask token that nothing uses, the classes and "no class"; the tables of positions have
  rows that nothing uses either (1022 of 1024 beyond the tokens, 99 of 100 of the steps). They are kept, and written
  back as they came;
- RAR's scripts switch guidance off with a scale of 0, which is 1 here.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustok.adapters.adapter import Adapter
from robustok.adapters.published_generators import PublishedGenerator
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling
from robustok.runtime.renaming import State, count_numbered, sizes

PLACES, STEPS = 1024, 100  # rows of the published tables beyond the tokens of an image


def _cosine(temperature: float, guidance: float, power: float) -> Sampling:
    return Sampling(temperature=temperature, guidance=guidance, schedule="power-cosine", power=power)


class RAR(Adapter, AutoregressiveModel):
    """RAR: a `GeneratorLike` of tokens that can be trained further."""

    family, kind, config_type = "rar", "generator", Autoregressive
    marks = ("target_aware_pos_embed", "timesteps_embeddings")
    table = (
        ("^blocks.*", "^layers.*"),
        ("attn", "attention"),
        ("^adaln_before_head.adaLN_modulation.1", "^modulation.linear"),
        ("layers.*.adaLN_modulation.1", "layers.*.modulation.linear"),
        ("^lm_head", "^head"),
    )
    presets: ClassVar = {
        "rar-b": PublishedGenerator("yucornetto/RAR:rar_b.bin", _cosine(1.0, 16.0, 2.75), 1.95),
        "rar-l": PublishedGenerator("yucornetto/RAR:rar_l.bin", _cosine(1.02, 15.5, 2.5), 1.70),
        "rar-xl": PublishedGenerator("yucornetto/RAR:rar_xl.bin", _cosine(1.02, 6.9, 1.5), 1.50),
        "rar-xxl": PublishedGenerator("yucornetto/RAR:rar_xxl.bin", _cosine(1.02, 8.0, 1.2), 1.48),
        "rar-b-robustok": PublishedGenerator("qiuk6/RobusTok:rar_b.bin", _cosine(1.02, 6.0, 1.15), 1.83),  # 1.60 tuned
        "rar-l-robustok": PublishedGenerator("qiuk6/RobusTok:rar_l.bin", _cosine(1.04, 6.75, 1.01), 1.60),  # 1.36 tuned
    }

    def __init__(self, config: Autoregressive):
        super().__init__(config)
        rows = {"mask_token": 1, "spare_positions": PLACES - 2, "spare_targets": PLACES, "spare_steps": STEPS - 1}
        for name, number in rows.items():
            self.register_buffer(name, torch.zeros(number, config.width))

    @classmethod
    def config_from_state(cls, state: State, **fields: Any) -> Autoregressive:
        """All sizes are in the weights."""
        block = ("blocks.0.attn.q_norm.weight", "blocks.0.mlp.fc1.weight")
        shapes = sizes(state, "lm_head.weight", "embeddings.weight", "pos_embed", *block)
        codes, width = shapes["lm_head.weight"]
        read: dict[str, Any] = {
            "codebook_size": codes,
            "tokens": shapes["pos_embed"][1] - PLACES,
            "classes": shapes["embeddings.weight"][0] - codes - 2,
            "width": width,
            "depth": count_numbered(state, r"blocks\.(\d+)\."),
            "heads": width // shapes["blocks.0.attn.q_norm.weight"][0],
            "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / width,
            "modulated": True,
        }
        return Autoregressive(**(read | fields))

    @classmethod
    def ours(cls, state: State, config: Autoregressive) -> dict[str, Tensor]:
        k, n, rest = config.codebook_size, config.tokens, dict(state)
        codes, mask, labels = rest.pop("embeddings.weight").split([k, 1, config.classes + 1])
        positions, targets, steps = (
            rest.pop(name)[0] for name in ("pos_embed", "target_aware_pos_embed", "timesteps_embeddings")
        )
        own = {
            "start": rest.pop("cls_token")[0],
            "token_embedding.weight": codes,
            "mask_token": mask,
            "label_embedding.weight": labels,
            "positions": positions[: n + 2],
            "spare_positions": positions[n + 2 :],
            "targets": targets[2 : n + 2],
            "spare_targets": torch.cat([targets[:2], targets[n + 2 :]]),
            "steps": steps[: n + 1],
            "spare_steps": steps[n + 1 :],
        }
        return own | super().ours(rest, config)

    @classmethod
    def theirs(cls, state: State, config: Autoregressive) -> dict[str, Tensor]:
        rest = dict(state)

        def table(*names: str) -> Tensor:
            return torch.cat([rest.pop(name) for name in names])

        before, after = rest.pop("spare_targets").split([2, PLACES - 2])
        own = {
            "cls_token": rest.pop("start").unsqueeze(0),
            "embeddings.weight": table("token_embedding.weight", "mask_token", "label_embedding.weight"),
            "pos_embed": table("positions", "spare_positions").unsqueeze(0),
            "target_aware_pos_embed": torch.cat([before, rest.pop("targets"), after]).unsqueeze(0),
            "timesteps_embeddings": table("steps", "spare_steps").unsqueeze(0),
        }
        return own | super().theirs(rest, config)
