"""EfficientNet-Lite0, the feature network that is trained in unless another is named."""

from dataclasses import dataclass

from robustok.backbones.lite import LITE0, Lite

CHANNELS = LITE0.channels


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """The embedded EfficientNet-Lite0: nothing to download, nothing to set."""


class Lite0(Lite):
    """`Lite` of that release."""

    def __init__(self) -> None:
        super().__init__(LITE0)
