"""SiT, LightningDiT and MAETok's SiT, whose files share DiT's layout, read into our one diffusion transformer.

`docs/models/sit.md`, `lightningdit.md` and `maetok.md` have the weights. Sizes are read from the shapes. The number of
attention heads is not in them, save where heads are normalized or rotated; for published widths it is known, for others
give `heads`. A file of DiT itself has the names and shapes of SiT's, but its network predicts the noise of discrete
steps: nothing in the file tells, so it is no SiT only by name. What one might not expect:

- in SiT and LightningDiT t = 0 is noise and t = 1 the data; here it is the other way round, as everywhere. So
  LightningDiT's cfg_interval_start s means guidance up to noise level 1 - s, its timestep_shift s a `shift` of 1 / s;
- their guidance moves the first 3 channels of a latent only (`guided_channels`), as DiT's code does; MAETok's moves
  all, at noise levels from guidance_low to guidance_high. In a Heun step that crosses an end of this interval its
  authors guide both velocities or none, we each by its own noise level;
- N of their ODE steps are N points, that is N - 1 of ours; N of their SDE steps are N of ours, the last one, from noise
  level `last` on, without noise. SiT's "sigma" is our "linear" diffusion, MAETok's Heun our `heun-but-last`. SiT's
  solver for pictures, dopri5 with error control, is not here; heun comes close with fewer evaluations;
- SiT's network also predicts DiT's variance, which nobody uses; LightningDiT's rotary positions come on top of embedded
  ones, and its training adds the direction of the velocity to its error (`flow_matching.flow_losses`);
- nothing in a file tells on which path MAETok's was trained: `interpolant="cosine"` says so, and then sample along it;
  what the authors' script does with --path-type cosine is both of them, whatever the training was;
- MAETok's class without label is always 1000 in its sampler; here it is the one after the last.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from robustok.adapters.adapter import Adapter
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import Interpolant, Times, TrainingTimes
from robustok.runtime.renaming import Renames, State, count_numbered, heads_of, sizes
from robustok.runtime.tensor_files import WRAPPERS
from robustok.shapes import Labels, Latents

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published S, B, L and XL, by their width
MARKS = ("t_embedder.mlp.0.weight", "y_embedder.embedding_table.weight", "pos_embed", "final_layer.linear.weight")
OPTIONS = "feat_rope.freqs_cos|blocks.0.mlp.w12.weight|blocks.0.norm1.weight"  # of LightningDiT, any of them


class PublishedTransformer(Adapter, DiffusionTransformerModel):
    """A published diffusion transformer: a `GeneratorLike`. Each family says at which of its times the data are."""

    kind = "generator"
    config_type = DiffusionTransformer
    prefer = ("ema", *WRAPPERS)  # as all their sampling scripts do
    published: ClassVar[Mapping[str, FlowSampling]]  # samplings of its authors, the first of them unless told
    data_at: ClassVar[int]  # t of the data in the authors' convention, 0 or 1; the noise is at the other end
    config: DiffusionTransformer
    table = (
        ("^x_embedder.proj", "^embed"),
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
    swiglu_table = (("^blocks.*.mlp.w12", "^blocks.*.mlp.fc1"), ("^blocks.*.mlp.w3", "^blocks.*.mlp.fc2"))

    @property
    def sampling(self) -> FlowSampling:
        """The sampling of its authors, on the path that it was trained on."""
        return replace(next(iter(self.published.values())), interpolant=self.config.interpolant)

    def forward(self, latents: Latents, t: Times, labels: Labels) -> Latents:
        """The velocity at noise level t along the path that it was trained on."""
        if self.data_at == 0:
            return super().forward(latents, t, labels)
        return -super().forward(latents, 1 - t, labels)

    @classmethod
    def renames(cls, config: DiffusionTransformer) -> Renames:
        return (*cls.table, *(cls.swiglu_table if config.mlp == "swiglu" else ()))

    @classmethod
    def config_from_state(
        cls, state: State, *, heads: int | None = None, interpolant: Interpolant = "linear"
    ) -> DiffusionTransformer:
        """Sizes of weights; `heads` where they do not tell, `interpolant` the path of their training."""
        grid = "x_embedder.proj.weight" in state
        embed = "x_embedder.proj.weight" if grid else "x_embedder.weight"
        swiglu = "blocks.0.mlp.w12.weight" in state
        hidden = "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight"
        modulation = "blocks.0.adaLN_modulation.1.weight"
        labels, head = "y_embedder.embedding_table.weight", "final_layer.linear.weight"
        shape = sizes(state, embed, hidden, modulation, labels, head, "pos_embed")
        (width, channels), patch = shape[embed][:2], shape[embed][2] if grid else 1
        told = [shape[name][-1] for name in ("feat_rope.freqs_cos", "blocks.0.attn.q_norm.weight") if name in shape]
        return DiffusionTransformer(
            tokens=shape["pos_embed"][1] * patch**2,
            channels=channels,
            classes=shape[labels][0] - 1,
            width=width,
            depth=count_numbered(state, r"blocks\.(\d+)\."),
            heads=heads or (width // told[0] if told else heads_of(width, HEADS)),
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


class SiT(PublishedTransformer):
    """SiT (Ma et al. 2024, arXiv 2401.08740): DiT trained by flow matching on Stable Diffusion's latents.

    S, B, L, XL; any patch. It generates the latents of stabilityai/sd-vae-ft-ema or -mse, scaled by 0.18215: load that
    autoencoder with `robustok.adapters.diffusers` and the two fit.
    """

    family, data_at = "sit", 1
    marks, foreign = (*MARKS, "x_embedder.proj.weight"), OPTIONS
    published: ClassVar = {  # gFID 2.06 (README, 50,000 images; scale 1.5 by the paper), not reproduced here
        "SiT-XL/2": FlowSampling(method="sde", steps=250, guidance=1.5, guided_channels=3)
    }


class LightningDiT(PublishedTransformer):
    """LightningDiT (Yao et al. 2025, arXiv 2501.01423), with whichever of its options, on the latents of VA-VAE.

    These are normalized: (latent - mean) / std with the mean and standard deviation of each channel in
    `latents_stats.pt` beside the autoencoder (the authors' latent_multiplier is 1).
    """

    family, data_at = "lightningdit", 1
    marks = (*MARKS, "x_embedder.proj.weight", OPTIONS)
    times, direction = TrainingTimes(distribution="logit-normal"), 1.0
    published: ClassVar = {  # by the configs of the authors' `reproductions`, not reproduced here: FID of 50,000 images
        name: FlowSampling(steps=249, guidance=guidance, guidance_high=guidance_high, guided_channels=3, shift=1 / 0.3)
        for name, guidance, guidance_high in (
            ("XL/1, 800 epochs", 6.7, 0.875),  # gFID 1.35; 2.17 without guidance
            ("XL/1, 64 epochs", 10.0, 0.9),  # gFID 2.11; 5.14 without guidance
        )
    }


class MAETokSiT(PublishedTransformer):
    """The SiT that generates MAETok's latents (Chen et al. 2025, arXiv 2502.03444): a sequence without a grid.

    They are normalized with the mean and standard deviation of `robustok.adapters.maetok`. SoftVQVAE/sit-xl_* have the
    same layout.
    """

    family, data_at = "maetok-sit", 0
    marks = (*MARKS, "x_embedder.weight")
    table = (("^x_embedder", "^embed"), *PublishedTransformer.table[1:])
    # At 256 pixels FID 2.31 without and 1.67 with guidance, at 512 pixels 2.79 and 1.69, not reproduced here. With
    # which settings is not said; these are those of the README's only command, which samples a SoftVQ model.
    published: ClassVar = {
        "guided": FlowSampling(method="sde", steps=250, guidance=1.75, guidance_high=0.7),
        "unguided": FlowSampling(method="sde", steps=250),
    }
