"""The SiT that generates MAETok's latents (Chen et al. 2025, arXiv 2502.03444): a sequence without a grid.

Weights on the Hugging Face hub (`model.safetensors`, flat): MAETok/sit-xl_maetok-b-128 for images of 256 pixels,
-512 for 512; SoftVQVAE/sit-xl_* have the same layout. The code's repository (Hhhhhhao/continuous_tokenizer) has no
licence file; its model cards are written with "apache-2.0". It generates the latents of `robustok.adapters.maetok`,
normalized with that tokenizer's mean and standard deviation, 128 tokens of 32 channels.

What one might not expect:

- t = 0 is the data and t = 1 noise, unlike in the original SiT;
- nothing in a file tells on which path it was trained: `interpolant="cosine"` says so, and then sample along it;
  what the authors' script does with --path-type cosine is both of them, whatever the training was;
- guidance moves all channels, at noise levels from guidance_low to guidance_high. In a Heun step that crosses an
  end of this interval the authors guide both velocities or none, we each by its own noise level;
- the authors' Heun is Euler in its last step (`heun-but-last`);
- the class without label is always 1000 in their sampler; here it is the one after the last.
"""

from robustok.adapters.diffusion_transformers import PublishedTransformer, is_layout
from robustok.adapters.renaming import State
from robustok.generators.flow import FlowSampling

# Published, not reproduced here: at 256 pixels FID 2.31 without and 1.67 with guidance, at 512 pixels 2.79 and 1.69.
# With which settings is not said; these are those of the README's only command, which samples a SoftVQ model.
PUBLISHED = {
    "unguided": FlowSampling(method="sde", steps=250),
    "guided": FlowSampling(method="sde", steps=250, guidance=1.75, guided_to=0.7),
}


class MAETokSiT(PublishedTransformer):
    """A SiT on one-dimensional latents as a `GeneratorLike` of (tokens, channels)."""

    family = "maetok-sit"
    guided = PUBLISHED["guided"]
    data_at = 0

    @staticmethod
    def matches(state: State) -> bool:
        return is_layout(state, "x_embedder.weight")
