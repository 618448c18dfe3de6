"""SiT (Ma et al. 2024, arXiv 2401.08740): DiT's transformer trained by flow matching on Stable Diffusion's latents.

Weights: `SiT-XL-2-256x256.pt`, linked from the repository willisma/SiT (a flat state_dict of the average; what its
training writes holds `model`, `ema`, `opt` and `args`, and `ema` is taken). Code and README under the MIT licence.
They generate the latents of stabilityai/sd-vae-ft-ema or -mse, scaled by 0.18215: load that autoencoder with
`robustok.adapters.diffusers` and the two fit, 32 x 32 places of 4 channels for images of 256 pixels.

What one might not expect:

- there t = 0 is noise and t = 1 the data; here it is the other way round, as everywhere;
- guidance moves the first 3 of the 4 channels only (`guided_channels`), as DiT's code does;
- N of the authors' ODE steps are N points, that is N - 1 of ours; N of their SDE steps are N of ours, the last one,
  from noise level `last` on, without noise. Their "sigma" is our "linear" diffusion;
- the network also predicts DiT's variance, which nobody uses;
- their default solver for pictures, dopri5 with error control, is not here; heun comes close with fewer evaluations.
"""

from robustok.adapters.diffusion_transformers import PublishedTransformer, is_layout
from robustok.adapters.renaming import State
from robustok.generators.flow import FlowSampling

# Published, not reproduced here: gFID 2.06 (README, 50,000 images of 256 pixels), with scale 1.5 by the paper.
PUBLISHED = {"SiT-XL/2": FlowSampling(method="sde", steps=250, guidance=1.5, guided_channels=3)}


class SiT(PublishedTransformer):
    """A SiT (S, B, L, XL; any patch) as a `GeneratorLike` of (tokens of the latent's grid, channels)."""

    family = "sit"
    guided = PUBLISHED["SiT-XL/2"]
    data_at = 1

    @staticmethod
    def matches(state: State) -> bool:
        options = ("feat_rope.freqs_cos", "blocks.0.mlp.w12.weight", "blocks.0.norm1.weight")
        return is_layout(state, "x_embedder.proj.weight") and not any(name in state for name in options)
