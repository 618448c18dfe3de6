"""`mae`: the class token of the masked autoencoder ViT-L/16 after its last layer-norm, nothing masked (He et al. 2021).

FDr6's convention (see `vision`): images at 224 pixels. dgm-eval's MAE space takes the same token of the same weights
at the same size, but rounds the resized image and does not make it square.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.vision import View, VisionSpace, config_of, loaded, quiet, tensors_of
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel
from robustok.shapes import Images

MODEL = HubModel(title="MAE ViT-L/16", repository="facebook/vit-mae-large", licence="CC-BY-NC-4.0")
VIEW = View(side=224, patch=16)
UNUSED = r"decoder\."


class _MaeSpace(VisionSpace):
    def features(self, images: Images) -> Float[Tensor, "b f"]:
        positions = (self.view.padded // self.view.patch) ** 2
        order = torch.arange(float(positions), device=images.device).expand(len(images), -1)  # else they are shuffled
        return self.model(images, noise=order).last_hidden_state[:, 0]


def mae_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of FDr6; `weights` is a folder with config.json and the tensors, if your own."""
    path = tensors_of(MODEL, weights)
    state = read_tensors(path)
    with quiet():
        from transformers import ViTMAEConfig, ViTMAEModel
    config = config_of(ViTMAEConfig, path)
    config.mask_ratio, config.image_size = 0.0, VIEW.padded
    config.layer_norm_eps = 1e-6  # as trained; the hub's configuration says 1e-12
    for name in [name for name in state if name.endswith("embeddings.position_embeddings")]:
        state[name] = resampled(state[name][0], VIEW.padded // config.patch_size, 1)[None]
    model = loaded(ViTMAEModel, config, state, path, UNUSED)
    return _MaeSpace(VIEW, model).extractor("mae", path, batch_size, device)
