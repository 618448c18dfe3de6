"""LightningDiT (Yao et al. 2025, arXiv 2501.01423): a faster-training DiT on the latents of VA-VAE.

Weights on the Hugging Face hub, code under the MIT licence: hustvl/lightningdit-xl-imagenet256-800ep and -64ep, torch
files of which `ema` is taken. They generate latents of VA-VAE (hustvl/vavae-imagenet256-f16d32-dinov2), 16 x 16 places
of 32 channels, normalized: (latent - mean) / std with the mean and standard deviation of each channel in
`latents_stats.pt` beside the autoencoder (the authors' latent_multiplier is 1).

What one might not expect:

- there t = 0 is noise and t = 1 the data; here it is the other way round, so their cfg_interval_start s means
  guidance up to noise level 1 - s, and their timestep_shift s is a `shift` of 1 / s;
- guidance moves the first 3 of the 32 channels only (`guided_channels`), as in SiT's code;
- rotary positions come on top of embedded ones;
- 250 of the authors' sampling steps are 250 points, that is 249 of ours;
- its training adds the direction of the velocity to its error (`robustok.generators.flow_matching.flow_losses`).
"""

from robustok.adapters.diffusion_transformers import PublishedTransformer, is_layout
from robustok.adapters.renaming import State
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import TrainingTimes

# Published, not reproduced here, by the configs of the authors' `reproductions`: FID of 50,000 images of 256 pixels.
PUBLISHED = {
    name: FlowSampling(steps=249, guidance=guidance, guided_to=guided_to, guided_channels=3, shift=1 / 0.3)
    for name, guidance, guided_to in (
        ("XL/1, 800 epochs", 6.7, 0.875),  # gFID 1.35; 2.17 without guidance
        ("XL/1, 64 epochs", 10.0, 0.9),  # gFID 2.11; 5.14 without guidance
    )
}


class LightningDiT(PublishedTransformer):
    """A LightningDiT, with whichever of its options, as a `GeneratorLike` of (places of the latent, channels)."""

    family = "lightningdit"
    guided = PUBLISHED["XL/1, 800 epochs"]
    data_at = 1
    times = TrainingTimes(distribution="logit-normal")
    direction = 1.0

    @staticmethod
    def matches(state: State) -> bool:
        options = ("feat_rope.freqs_cos", "blocks.0.mlp.w12.weight", "blocks.0.norm1.weight")
        return is_layout(state, "x_embedder.proj.weight") and any(name in state for name in options)
