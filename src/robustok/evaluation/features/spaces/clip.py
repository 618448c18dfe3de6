"""`clip`: the class token of OpenAI's CLIP ViT-L/14 after its last layer-norm, not projected (Radford et al. 2021).

FDr6's convention (see `vision`): images at 256 pixels, padded to 266. Its evaluation builds timm's
`vit_large_patch14_clip_224.openai`, which computes GELU where OpenAI trained with QuickGELU; its normalizer was
computed so, and so this space does it too. dgm-eval's CLIP space is another network (OpenCLIP's, trained on DataComp).
"""

from pathlib import Path

import torch

from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.vision import View, VisionSpace, config_of, loaded, quiet, tensors_of
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel

MODEL = HubModel(title="CLIP ViT-L/14", repository="openai/clip-vit-large-patch14", licence="MIT")
VIEW = View(
    side=256,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    patch=14,
)
UNUSED = r"text_model\.|text_projection|visual_projection|logit_scale|.*position_ids$"


def clip_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of FDr6; `weights` is a folder with config.json and the tensors, if your own."""
    path = tensors_of(MODEL, weights)
    state = read_tensors(path)
    with quiet():
        from transformers import CLIPVisionConfig, CLIPVisionModel
    config = config_of(CLIPVisionConfig, path)
    config.hidden_act, config.image_size = "gelu", VIEW.padded
    for name in [name for name in state if name.endswith("embeddings.position_embedding.weight")]:
        if not name.startswith("text_model."):
            state[name] = resampled(state[name], VIEW.padded // config.patch_size, 1)
    model = loaded(CLIPVisionModel, config, state, path, UNUSED)
    return VisionSpace(VIEW, model).extractor("clip", path, batch_size, device)
