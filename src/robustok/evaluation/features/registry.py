"""Feature spaces by name: which there are, and the extractor that a name or a function stands for."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from robustok.backbones.lite import LITE1, LITE2
from robustok.evaluation.features.extractor import CustomExtractor, Extractor, NetworkExtractor
from robustok.evaluation.features.spaces.embedded import LITE0_SIDES, lite0, lite_space, vgg_hed_space
from robustok.evaluation.features.spaces.inception import WEIGHTS, inception_space
from robustok.evaluation.features.spaces.vision import VISION_MODELS, vision_space
from robustok.names import IN_PACKAGES, SPACES
from robustok.runtime.weights import HubModel, WeightFile
from robustok.shapes import Features, Pixels

FeatureSpace: TypeAlias = Extractor | Callable[[Pixels], Features] | str
FeatureSpaces: TypeAlias = FeatureSpace | Sequence[FeatureSpace]


def deciding_space(side: int) -> str:
    """The embedded space that looks at images of that side in pixels whole: no finer detail goes unseen.

    At 64 pixels, as scores are by default, what an error of a decoder does to the finest details of larger images
    averages out. Smaller images are enlarged to 64; above 224, the side that the network was trained at, they shrink.
    """
    least, most = LITE0_SIDES
    return "lite0" if side <= least else f"lite0@{min(side, most)}"


def extractor(
    features: FeatureSpace, device: torch.device | str = "cpu", *, dtype: str = "float32", compile: str | None = None
) -> Extractor:
    """The extractor that a name or a function stands for; an extractor is returned as it is.

    A name is one of `SPACES`, or one with weights of your own: "inception:/path/to/weights.pth"; "lite0@224" is lite0
    at 224 pixels rather than 64. A function is of Pixels (b 3 h w); one of arrays comes by `from_numpy`. `dtype` and
    `compile` are those of `NetworkExtractor.faster`. Raises ValueError for any other name, when the weights cannot be
    had, and for a function that is to compute in another format.
    """
    if dtype != "float32" or compile:
        found = extractor(features, device)
        if not isinstance(found, NetworkExtractor) or found is features:
            raise ValueError(f"{found.name} computes as it is made; dtype and compile are for spaces by name")
        return found.faster(dtype, compile)
    if isinstance(features, Extractor):
        return features
    if callable(features):
        return CustomExtractor(features)
    name, _, given = features.partition(":") if isinstance(features, str) else ("", "", "")
    weights = Path(given) if given else None
    match name:
        case "inception":
            return inception_space(weights, device=device)
        case _ if name in VISION_MODELS:
            return vision_space(name, weights, device=device)
        case _ if given:
            pass
        case "lite0":
            return lite0(device=device)
        case "lite1" | "lite2":
            return lite_space(LITE1 if name == "lite1" else LITE2, device=device)
        case "vgg-hed":
            return vgg_hed_space(device=device)
        case _ if side := re.fullmatch(r"lite0@([0-9]{1,4})", name):
            return lite0(int(side[1]), device=device)
    raise ValueError(
        f"there is no feature space {features!r}; choose {', '.join(SPACES[:-1])} or {SPACES[-1]}, all but "
        f"{', '.join(IN_PACKAGES)} also with weights of your own (inception:/path/to/weights.pth), or give a function "
        "from pixels to features"
    )


def published_weights(name: str) -> WeightFile | HubModel | None:
    """The published weights that a space is made of, here or not; None for one in a package and an unknown one."""
    return WEIGHTS if name == "inception" else VISION_MODELS[name].hub if name in VISION_MODELS else None


def extractors(features: FeatureSpaces, device: torch.device | str = "cpu") -> list[Extractor]:
    """One or several. Raises ValueError for none."""
    several = features if isinstance(features, Sequence) and not isinstance(features, str) else [features]
    if not several:
        raise ValueError("there is no feature space to score in; name at least one")
    return [extractor(space, device) for space in several]
