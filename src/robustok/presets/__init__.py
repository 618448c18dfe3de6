"""Every named run, as a function that returns its config; a variant is `dataclasses.replace`.

`embedded` are the runs on the embedded images, for two CPU cores, with a codebook and without, `own_images` the same on
others; `tokenizers`, `generators` and `decoders` are those on ImageNet, each in three sizes; `recipes` knows all of
them by name.
"""

from robustok.presets.embedded import (
    continuous,
    continuous_short,
    continuous_smoke,
    demo,
    in_color,
    masked,
    masked_short,
    masked_smoke,
    rae,
    rae_short,
    rae_smoke,
    short,
    smoke,
)
from robustok.presets.own_images import of_own_images

__all__ = [
    "continuous",
    "continuous_short",
    "continuous_smoke",
    "demo",
    "in_color",
    "masked",
    "masked_short",
    "masked_smoke",
    "of_own_images",
    "rae",
    "rae_short",
    "rae_smoke",
    "short",
    "smoke",
]
