"""Every named run, as a function that returns its config; a variant is `dataclasses.replace`.

`embedded` are the runs on the embedded images, for two CPU cores, `continuous` the same without a codebook;
`tokenizers`, `generators` and `decoders` are those on ImageNet, each in three sizes; `recipes` knows these by name.
"""

from robustok.presets.continuous import continuous as continuous
from robustok.presets.continuous import continuous_short as continuous_short
from robustok.presets.continuous import continuous_smoke as continuous_smoke
from robustok.presets.embedded import demo as demo
from robustok.presets.embedded import in_color as in_color
from robustok.presets.embedded import looking_at as looking_at
from robustok.presets.embedded import short as short
from robustok.presets.embedded import smoke as smoke
