"""The first three stages of VGG-16, trained on ImageNet and fine-tuned for edges, embedded.

Simonyan & Zisserman 2014 (arXiv 1409.1556, configuration D) as holistically-nested edge detection fine-tuned it
(Xie & Tu 2015, arXiv 1504.06375). Source, licences and how the file was made: `vgg_hed_weights/README.md` beside this.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from safetensors.torch import load
from torch import Tensor

from robustok.backbones.vgg import Vgg16

STAGES = 3  # conv1_1 to conv3_3; the others would take eight times the space
CHANNELS = (64, 128, 256)  # of each stage's map, at stride 1, 2, 4
MEAN = (122.679, 116.669, 104.007)  # red, green, blue of 255, which the network takes off


@dataclass(frozen=True, kw_only=True)
class VGGHED:
    """The embedded VGG-16 trunk, three maps, as edge detection (HED) fine-tuned it: nothing to download or to set."""


def vgg_hed() -> Vgg16:
    """The network, of images in [-1, 1]; its maps are relu1_2, relu2_2 and relu3_3."""
    shift = tuple(mean / 127.5 - 1 for mean in MEAN)
    return Vgg16(_weights(), stages=STAGES, shift=shift, scale=(1 / 127.5,) * 3)


@cache
def fingerprint() -> str:
    """SHA-256 of the weight file: names this feature space in a score's protocol."""
    return hashlib.sha256(weight_file().read_bytes()).hexdigest()


def weight_file() -> Traversable:
    """The embedded file: half precision, by the key names of torchvision's `vgg16`, channels in the order RGB."""
    return files("robustok.backbones") / "vgg_hed_weights" / "conv1_1-conv3_3.safetensors"


@cache
def _weights() -> dict[str, Tensor]:
    return load(weight_file().read_bytes())
