"""The Inception-v3 that FID is defined with, as a frozen feature network.

Szegedy et al. 2015 (arXiv 1512.00567), trained by its authors on 1008 outputs and published as a TensorFlow graph in
December 2015; Heusel et al. 2017 (arXiv 1706.08500) took its pooled features for FID. The weights are those of the
port `pt_inception-2015-12-05-6726825d.pth` by its key names, and where that graph differs from the paper, so does
this: averages over 3 x 3 places leave out the padding, the last block takes their maximum instead, and images are
resized as TensorFlow 1 did, without antialiasing and without centering pixels.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.backbones.frozen import FrozenConv, folded
from robustok.runtime.checkpoint import check_misfits
from robustok.shapes import Features, Images

SIDE = 299  # pixels
SPATIAL = 7  # channels of the spatial features, as ADM's evaluator takes them
BRANCHES = {  # of each block: the layers of its branches, side by side; !: stride 2; a/b: of one input, side by side
    f"Mixed_{number}{letter}": branches
    for number, letters, branches in (
        ("5", "bcd", "1x1 | 5x5_1 5x5_2 | 3x3dbl_1 3x3dbl_2 3x3dbl_3 | pool _pool"),
        ("6", "a", "3x3! | 3x3dbl_1 3x3dbl_2 3x3dbl_3! | pool"),
        ("6", "bcde", "1x1 | 7x7_1 7x7_2 7x7_3 | 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 | pool _pool"),
        ("7", "a", "3x3_1 3x3_2! | 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4! | pool"),
        ("7", "bc", "1x1 | 3x3_1 3x3_2a/3x3_2b | 3x3dbl_1 3x3dbl_2 3x3dbl_3a/3x3dbl_3b | pool _pool"),
    )
    for letter in letters
}


class InceptionFeatures(NamedTuple):
    """The result of `Inception`."""

    pooled: Features  # (b 2048), of FID
    logits: Features  # (b 1008), without the classifier's bias, as the Inception Score takes them
    spatial: Features  # (b 2023), of sFID: 7 channels at 17 x 17 places, in the order row, column, channel


class Inception(nn.Module):
    """Pooled features, logits and spatial features of images in [-1, 1] of any size, from one pass.

    Made from a state dict by its published key names; channel counts are read from the tensors. Nothing in it is
    trained or saved: weights are buffers outside the state dict, train mode equals eval mode. Gradients flow to the
    images. It runs in its weights' format, float32, under autocast too. Raises ValueError when keys are missing or left
    over.
    """

    classifier: Tensor
    bias: Tensor  # of the classifier: `logits + bias` are those of the published network

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        _check_keys(state)
        conv = partial(BasicConv, state)
        average = partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False)
        self.stem = nn.Sequential(
            conv("Conv2d_1a_3x3", stride=2),
            conv("Conv2d_2a_3x3", padding=(0, 0)),
            conv("Conv2d_2b_3x3"),
            nn.MaxPool2d(3, stride=2),
            conv("Conv2d_3b_1x1"),
            conv("Conv2d_4a_3x3", padding=(0, 0)),
            nn.MaxPool2d(3, stride=2),
        )
        self.middle = nn.Sequential(  # at 35 x 35 places, then 17 x 17
            *(_block(state, f"Mixed_5{i}", average()) for i in "bcd"),
            _block(state, "Mixed_6a"),
            *(_block(state, f"Mixed_6{i}", average()) for i in "bcd"),
        )
        self.last = nn.Sequential(  # at 17 x 17 places, then 8 x 8
            _block(state, "Mixed_6e", average()),
            _block(state, "Mixed_7a"),
            _block(state, "Mixed_7b", average()),
            _block(state, "Mixed_7c", nn.MaxPool2d(3, stride=1, padding=1)),
        )
        self.register_buffer("classifier", state["fc.weight"].float(), persistent=False)
        self.register_buffer("bias", state["fc.bias"].float(), persistent=False)

    def forward(self, images: Images) -> InceptionFeatures:
        with torch.autocast(images.device.type, enabled=False):
            dtype = self.classifier.dtype  # in half precision a pixel would move by as much as resizing does
            x = resize_like_tensorflow(images.to(torch.promote_types(dtype, torch.float32)), SIDE)
            x = ((x * 127.5 - 0.5) / 128).to(dtype)  # trained on (pixel - 128) / 128
            x = self.middle(self.stem(x.contiguous(memory_format=torch.channels_last)))
            # Of the block mixed_6 the first branch is named mixed_6/conv, and its channels come first.
            spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
            pooled = self.last(x).mean(dim=(2, 3))
            return InceptionFeatures(pooled, pooled @ self.classifier.T, spatial)


class BasicConv(FrozenConv):
    """Convolution, batch-norm, ReLU. Where it halves the sides it sees whole windows only."""

    def __init__(
        self, state: Mapping[str, Tensor], name: str, stride: int = 1, padding: tuple[int, int] | None = None
    ) -> None:
        weight, bias = folded(state, f"{name}.conv", f"{name}.bn")
        super().__init__(weight, bias, stride, (0, 0) if stride == 2 else padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class Branches(nn.Module):
    """The outputs of several layers of one input, their channels side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _block(state: Mapping[str, Tensor], name: str, pool: nn.Module | None = None) -> nn.Module:
    """The block of a name, as `BRANCHES` has it; `pool` is what its last branch begins with."""

    def layer(part: str) -> nn.Module:
        match part:
            case "pool":
                return pool or nn.MaxPool2d(3, stride=2)
            case _ if "/" in part:
                return Branches(*map(layer, part.split("/")))
        return BasicConv(state, f"{name}.branch{part.rstrip('!')}", stride=2 if part.endswith("!") else 1)

    branches = ([layer(part) for part in branch.split()] for branch in BRANCHES[name].split(" | "))
    return Branches(*(layers[0] if len(layers) == 1 else nn.Sequential(*layers) for layers in branches))


def resize_like_tensorflow(images: Images, side: int) -> Float[Tensor, "b 3 {side} {side}"]:
    """Images of side x side pixels, each value between the two nearest in front and behind along both axes.

    As `tf.image.resize_bilinear` of TensorFlow 1 by default: pixel i of the result lies at i times the scale, not
    centered, and pixels in between are skipped where the image shrinks.
    """
    for axis in (3, 2):
        length = images.shape[axis]
        place = torch.arange(side, device=images.device, dtype=torch.float32) * (length / side)
        first = place.long()
        fraction = (place - first).to(images.dtype).view(-1, *[1] * (3 - axis))
        low, high = images.index_select(axis, first), images.index_select(axis, (first + 1).clamp_max(length - 1))
        images = low + (high - low) * fraction
    return images


LAYERS = [f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")]
LAYERS += [
    f"{block}.branch{part.rstrip('!')}"
    for block, branches in BRANCHES.items()
    for part in branches.replace("/", " ").split()
    if part not in ("|", "pool")
]
_TENSORS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
KEYS = frozenset({f"{layer}.{tensor}" for layer in LAYERS for tensor in _TENSORS} | {"fc.weight", "fc.bias"})


def _check_keys(state: Mapping[str, Tensor]) -> None:
    given = {key for key in state if not key.endswith("num_batches_tracked")}
    misfits = {"missing": sorted(KEYS - given), "unexpected": sorted(given - KEYS)}
    remedy = "take pt_inception-2015-12-05-6726825d.pth (torchvision's inception_v3 is another network)"
    check_misfits(misfits, "these are not the weights of FID's Inception", remedy)
