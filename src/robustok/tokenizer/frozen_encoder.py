"""A frozen pretrained network as the encoder: representation autoencoders, RAE (Zheng et al. 2025, arXiv 2510.11690).

The features of the network, each brought to mean 0 and variance 1 over its channels as RAE does with DINOv2's, are the
latents (sec. 3): a bottleneck `Plain` as wide as they are, a decoder that is trained on them with noise
(`latent_perturbation.AddedNoise`), mean and scale of each channel measured over the images at the end
(`Autoencoder.standardize`).
"""

import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.backbones.dino import DINOv2, VisionTransformer, resized, shapes
from robustok.backbones.lite import DOWN, LITE0, Lite
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import Hidden, to_sequence


@dataclass(frozen=True, kw_only=True)
class FrozenLite0:
    """The map after a stage of the embedded EfficientNet-Lite0: nothing to download."""

    side: int = 64  # side in pixels that images are resized to
    stages: int = 3  # stages of the network, each of which halves the sides; the last one's map is the latent

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= DOWN:
            raise ValueError(f"stages is {self.stages}, but Lite0 has {DOWN}; choose 1 to {DOWN}")
        if self.side < 1 or self.side % 2**self.stages:
            raise ValueError(f"side is {self.side}; {self.stages} stages take a multiple of {2**self.stages}")

    @property
    def width(self) -> int:
        """Channels of a latent."""
        return LITE0.channels[self.stages - 1]

    def tokens(self, image_size: int) -> int:
        """Latents of an image, whatever its side, since it is resized."""
        return (self.side // 2**self.stages) ** 2


@dataclass(frozen=True, kw_only=True)
class FrozenDINOv2:
    """The patches of a DINOv2 after its last block, as RAE has them."""

    network: DINOv2 = field(default_factory=lambda: DINOv2(patch=14, side=224))  # 256 latents of 768 channels

    @property
    def width(self) -> int:
        """Channels of a latent."""
        return self.network.width

    def tokens(self, image_size: int) -> int:
        """Latents of an image, whatever its side, since it is resized."""
        return (self.network.side // self.network.patch) ** 2


AnyFrozen: TypeAlias = FrozenLite0 | FrozenDINOv2


class FrozenEncoder(nn.Module):
    """Images to the features of a frozen network. Its weights are buffers outside of the state dict.

    So no optimizer moves them, no average and no resume file holds them, and copies share them; a tokenizer's folder
    holds them (`Autoencoder.saved_state`), so it loads without a download. A new DINOv2 is empty until it is filled.
    """

    def __init__(self, config: AnyFrozen) -> None:
        super().__init__()
        self.config = config
        match config:
            case FrozenLite0(stages=stages):
                lite = Lite()
                lite.stages = lite.stages[:stages]
                del lite.head
                self.network: nn.Module = lite
            case FrozenDINOv2(network=network):
                empty = {name: torch.zeros(shape.shape) for name, shape in shapes(network).items()}
                self.network = VisionTransformer(network, empty)
        self.empty = isinstance(config, FrozenDINOv2)

    def forward(self, images: Images, hidden: Hidden | None = None) -> Latents:
        if hidden is not None:
            raise ValueError("patches cannot be hidden from a frozen encoder; set mask_ratio_max to 0")
        if self.empty:
            raise ValueError(
                "this frozen encoder has no weights yet; train-tokenizer reads them, and so does load_tokenizer"
            )
        with torch.no_grad():
            match self.config:
                case FrozenLite0(side=side, stages=stages):
                    fits = images.shape[-2:] == (side, side)
                    features = to_sequence(self.network(images if fits else resized(images, side), stages).stages[-1])
                case FrozenDINOv2(network=DINOv2(depth=depth)):
                    features = self.network(images, after=(depth,)).sequences[0][:, 1:]
            return F.layer_norm(features.float(), (self.config.width,), eps=1e-6)

    def weights(self) -> dict[str, Tensor]:
        """The network's weights by name."""
        return dict(self.network.named_buffers())

    def take(self, weights: dict[str, Tensor]) -> None:
        """Compute with these weights from now on; names and shapes are those of `weights`."""
        for name, tensor in weights.items():
            part, _, own = name.rpartition(".")
            setattr(self.network.get_submodule(part), own, tensor)
        self.empty = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenEncoder":
        """A copy that shares the weights, which nothing changes in place."""
        memo |= {id(weight): weight for weight in self.weights().values()}
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        return other
