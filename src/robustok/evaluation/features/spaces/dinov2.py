"""`dinov2` and `dinov2-224`: the class token of DINOv2 ViT-L/14, after the last layer-norm (Oquab et al. 2023).

Two conventions are in use, and their distances differ. `dinov2` is FDr6's (see `vision`): images at 256 pixels, padded
to 266, position embeddings resampled with antialiasing as timm does. `dinov2-224` is dgm-eval's (Stein et al. 2023,
arXiv 2306.04675, which proposed FD in this space): images at 224 pixels, resized and rounded as PIL does,
position embeddings resampled as DINOv2's own code does it, without antialiasing and by a scale of (16 + 0.1) / 37.

Weights may have any of three layouts: the hub's, transformers' own in memory, DINOv2's own (also timm's).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.dino import HEAD, hub_names
from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.vision import View, VisionSpace, loaded, quiet, tensors_of
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel

MODEL = HubModel(title="DINOv2 ViT-L/14", repository="facebook/dinov2-large", licence="Apache-2.0")
POSITIONS = "embeddings.position_embeddings"
LARGE, SMALL = View(side=256, patch=14), View(side=224, patch=14, rounded=True)


def dinov2_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of FDr6; `weights` is a file in any layout or a folder with one, if your own."""
    return _space("dinov2", LARGE, weights, batch_size, device)


def dinov2_224_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of dgm-eval; `weights` is a file in any layout or a folder with one, if your own."""
    return _space("dinov2-224", SMALL, weights, batch_size, device)


def _space(
    name: str, view: View, weights: Path | None, batch_size: int, device: torch.device | str
) -> NetworkExtractor:
    path = tensors_of(MODEL, weights)
    state = hub_names(read_tensors(path))
    positions, patches = (state.get(key) for key in (POSITIONS, "embeddings.patch_embeddings.projection.weight"))
    if positions is None or patches is None:
        raise ValueError(f"{path} is no DINOv2: it has neither its position nor its patch embeddings; {MODEL.remedy()}")
    with quiet():
        from transformers import Dinov2Config, Dinov2Model
    width, patch = patches.shape[0], patches.shape[-1]
    grid = view.padded // patch
    resample = resampled if view is LARGE else _resampled_as_released
    state[POSITIONS] = resample(positions[0], grid, 1)[None]
    config = Dinov2Config(
        hidden_size=width,
        num_attention_heads=width // HEAD,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        patch_size=patch,
        image_size=grid * patch,
        use_mask_token=False,
    )
    model = loaded(Dinov2Model, config, state, path)
    return VisionSpace(view, model).extractor(name, path, batch_size, device)


def _resampled_as_released(positions: Float[Tensor, "n d"], grid: int, extra: int) -> Float[Tensor, "m d"]:
    """Position embeddings for grid x grid places by DINOv2's own code, whose scale is a tenth of a place too large."""
    first, places = positions[:extra].float(), positions[extra:].float()
    old = round(len(places) ** 0.5)
    if old == grid:
        return positions
    scale = (grid + 0.1) / old
    plane = F.interpolate(places.T.reshape(1, -1, old, old), scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, plane.flatten(2)[0].T])
