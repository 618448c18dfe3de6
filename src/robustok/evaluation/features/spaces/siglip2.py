"""`siglip2`: what the attention pooling of SigLIP 2 So400m/16 makes of its patches (Tschannen et al. 2025).

FDr6's convention (see `vision`): the checkpoint for 256 pixels, seen at 224, so that 16 x 16 position embeddings are
resampled to 14 x 14. On the hub it is of the class of the first SigLIP.
"""

from pathlib import Path

import torch

from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.vision import View, VisionSpace, config_of, loaded, quiet, tensors_of
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel

MODEL = HubModel(title="SigLIP 2 So400m/16", repository="google/siglip2-so400m-patch16-256", licence="Apache-2.0")
VIEW = View(side=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), patch=16)
UNUSED = r"text_model\.|logit_scale|logit_bias|.*position_ids$"


def siglip2_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of FDr6; `weights` is a folder with config.json and the tensors, if your own."""
    path = tensors_of(MODEL, weights)
    state = read_tensors(path)
    with quiet():
        from transformers import SiglipVisionConfig, SiglipVisionModel
    config = config_of(SiglipVisionConfig, path)
    config.image_size = VIEW.padded
    for name in [name for name in state if name.endswith("embeddings.position_embedding.weight")]:
        if not name.startswith("text_model."):
            state[name] = resampled(state[name], VIEW.padded // config.patch_size, 0)
    model = loaded(SiglipVisionModel, config, state, path, UNUSED)
    return VisionSpace(VIEW, model).extractor("siglip2", path, batch_size, device)
