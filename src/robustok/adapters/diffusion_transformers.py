"""The file layout that DiT, SiT, LightningDiT and MAETok's SiT share, read into our diffusion transformer.

Sizes are read from the shapes. The number of attention heads is not in them, save where heads are normalised or
rotated; for published widths it is known, for others give `heads`. A file of DiT itself has the names and shapes of
SiT's, but its network predicts the noise of discrete steps: nothing in the file tells, so it is no SiT only by name.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from robustok.adapters.adapter import Adapter
from robustok.adapters.renaming import Renames, State, count, heads_of, sizes
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import (
    FlowDraw,
    Interpolant,
    Times,
    TrainingTimes,
    flow_matching_loss,
)
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Labels, Latents, Scalar

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published S, B, L and XL, by their width

RENAMES: Renames = (
    ("^t_embedder.mlp.0", "^time1"),
    ("^t_embedder.mlp.2", "^time2"),
    ("^y_embedder.embedding_table", "^label_embedding"),
    ("^pos_embed", "^positions"),
    ("^feat_rope.freqs_cos", "^cos"),
    ("^feat_rope.freqs_sin", "^sin"),
    ("^blocks.*.attn", "^blocks.*.attention"),
    ("^blocks.*.adaLN_modulation.1", "^blocks.*.modulation.linear"),
    ("^final_layer.norm_final", "^norm"),
    ("^final_layer.adaLN_modulation.1", "^modulation.linear"),
    ("^final_layer.linear", "^head"),
)
GRID: Renames = (("^x_embedder.proj", "^embed"),)
SEQUENCE: Renames = (("^x_embedder", "^embed"),)
SWIGLU: Renames = (
    ("^blocks.*.mlp.w12", "^blocks.*.mlp.fc1"),
    ("^blocks.*.mlp.w3", "^blocks.*.mlp.fc2"),
)


class PublishedTransformer(Adapter, DiffusionTransformerModel):
    """A published diffusion transformer: a `GeneratorLike`. Each family says at which of its times the data are."""

    kind = "generator"
    config_type = DiffusionTransformer
    prefer = ("ema", *WRAPPERS)  # as all their sampling scripts do
    guided: ClassVar[FlowSampling]  # how its authors sample it
    data_at: ClassVar[int]  # t of the data in the authors' convention, 0 or 1; the noise is at the other end
    times: ClassVar[TrainingTimes] = TrainingTimes()  # that its authors trained it at
    direction: ClassVar[float] = 0.0  # weight of the velocity's direction in their loss
    config: DiffusionTransformer

    @property
    def sampling(self) -> FlowSampling:
        """How its authors sample it, on the path that it was trained on."""
        return replace(self.guided, interpolant=self.config.interpolant)

    def forward(self, latents: Latents, t: Times, labels: Labels) -> Latents:
        """The velocity at noise level t along the path that it was trained on."""
        if self.data_at == 0:
            return super().forward(latents, t, labels)
        return -super().forward(latents, 1 - t, labels)

    def draw(self, b: int, *, times: TrainingTimes | None = None, generator: torch.Generator) -> FlowDraw:
        """What a training step on `b` latents draws: noise levels as `times` say, noise, and withheld labels."""
        return super().draw(b, times=times or self.times, generator=generator)

    def loss(self, latents: Latents, labels: Labels, draw: FlowDraw) -> Scalar:
        """What its authors trained it by, for training it further."""
        interpolant = self.config.interpolant
        return flow_matching_loss(
            self, latents, labels, draw, no_label=self.no_label, interpolant=interpolant, direction=self.direction
        )

    @classmethod
    def renames(cls, config: DiffusionTransformer) -> Renames:
        embed = GRID if config.layout == "grid" else SEQUENCE
        return [*embed, *RENAMES, *(SWIGLU if config.mlp == "swiglu" else ())]

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, interpolant: Interpolant = "linear"
    ) -> DiffusionTransformer:
        """Of these weights; `heads` of attention where they do not tell, `interpolant` the path of their training."""
        grid = "x_embedder.proj.weight" in state
        embed = "x_embedder.proj.weight" if grid else "x_embedder.weight"
        swiglu = "blocks.0.mlp.w12.weight" in state
        hidden = "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight"
        modulation = "blocks.0.adaLN_modulation.1.weight"
        labels, head = "y_embedder.embedding_table.weight", "final_layer.linear.weight"
        shape = sizes(state, embed, hidden, modulation, labels, head, "pos_embed")
        (width, channels), patch = shape[embed][:2], shape[embed][2] if grid else 1
        return DiffusionTransformer(
            tokens=shape["pos_embed"][1] * patch**2,
            channels=channels,
            classes=shape[labels][0] - 1,
            width=width,
            depth=count(state, r"blocks\.(\d+)\."),
            heads=heads or _heads(state, width),
            hidden=shape[hidden][0] // (2 if swiglu else 1),
            layout="grid" if grid else "sequence",
            patch=patch,
            mlp="swiglu" if swiglu else "gelu",
            norm="rms" if "blocks.0.norm1.weight" in state else "layer",
            rotary="feat_rope.freqs_cos" in state,
            qk_norm="blocks.0.attn.q_norm.weight" in state,
            shifts=shape[modulation][0] == 6 * width,
            variance=shape[head][0] == 2 * channels * patch**2,
            interpolant=interpolant,
        )


def _heads(state: State, width: int) -> int:
    """Attention heads, where weights or the width tell them."""
    for name in ("feat_rope.freqs_cos", "blocks.0.attn.q_norm.weight"):
        if name in state:
            return width // state[name].shape[-1]
    return heads_of(width, HEADS)


def is_layout(state: State, embed: str) -> bool:
    """Whether these are weights of a diffusion transformer whose latents enter through `embed`."""
    return {embed, "t_embedder.mlp.0.weight", "y_embedder.embedding_table.weight", "pos_embed"} <= state.keys() and (
        "final_layer.linear.weight" in state
    )
