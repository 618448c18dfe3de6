"""`convnextv2`: the last feature map of ConvNeXt V2-B, averaged over positions, not normalized (Woo et al. 2023).

FDr6's convention (see `vision`): the network pretrained by masked autoencoding, then fine-tuned on ImageNet-22k and
-1k, images at 224 pixels; its head's layer-norm is left out. dgm-eval's ConvNeXt space is another network.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.vision import View, VisionSpace, config_of, loaded, quiet, tensors_of
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel
from robustok.shapes import Images

MODEL = HubModel(title="ConvNeXt V2-B", repository="facebook/convnextv2-base-22k-224", licence="CC-BY-NC-4.0")
VIEW = View(side=224)
UNUSED = r"classifier\."


class _ConvNextSpace(VisionSpace):
    def features(self, images: Images) -> Float[Tensor, "b f"]:
        return self.model(images).last_hidden_state.mean(dim=(2, 3))


def convnextv2_space(
    weights: Path | None = None, *, batch_size: int = 32, device: torch.device | str = "cpu"
) -> NetworkExtractor:
    """The space of FDr6; `weights` is a folder with config.json and the tensors, if your own."""
    path = tensors_of(MODEL, weights)
    with quiet():
        from transformers import ConvNextV2Config, ConvNextV2Model
    model = loaded(ConvNextV2Model, config_of(ConvNextV2Config, path), read_tensors(path), path, UNUSED)
    return _ConvNextSpace(VIEW, model).extractor("convnextv2", path, batch_size, device)
