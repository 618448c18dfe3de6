"""Every named run, as a function that returns its config; a variant is `dataclasses.replace`.

`embedded` are the runs on the embedded images, for two CPU cores.
"""

from robustok.presets.embedded import demo as demo
from robustok.presets.embedded import smoke as smoke
