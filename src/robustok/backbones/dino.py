"""DINO and DINOv2, vision transformers pretrained without labels, as frozen feature networks.

Caron et al. 2021 (arXiv 2104.14294) and Oquab et al. 2023 (arXiv 2304.07193): the same network, DINOv2 with a learned
gain on every residual branch. Weights may have any of three layouts: their authors' (also timm's), that of the files on
the Hugging Face hub, and that of transformers 5 in memory.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.backbones.frozen import freeze
from robustok.backbones.resampling import resampled, resampled_patches
from robustok.layers import Block
from robustok.runtime.checkpoint import check_weights
from robustok.runtime.renaming import Renames, fuse, original, renamed, unfuse
from robustok.shapes import Features, Images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1] as they were trained
HEAD = 64  # width of an attention head, in all sizes

PARTS = ("query", "key", "value")
PUBLISHED_NAMES: Renames = (  # (theirs, ours): the authors' (also timm's)
    ("patch_embed.proj", "embed"),
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    ("attn", "attention"),
    ("ls1", "scale1"),
    ("ls2", "scale2"),
)
HUB_NAMES: Renames = (  # of DINOv2's files on the Hugging Face hub
    ("^embeddings.cls_token", "^class_token"),
    ("^embeddings.position_embeddings", "^positions"),
    ("^embeddings.patch_embeddings.projection", "^embed"),
    ("^encoder.layer.*", "^blocks.*"),
    *((f"attention.attention.{part}", f"attention.{part}") for part in PARTS),
    ("attention.output.dense", "attention.proj"),
    ("layer_scale1.lambda1", "scale1.gamma"),
    ("layer_scale2.lambda1", "scale2.gamma"),
    ("^layernorm", "^norm"),
)
OTHER_NAMES: Renames = (  # of transformers 5 in memory, and of DINO's files on the hub
    ("^layers.*", "^blocks.*"),
    *((f"attention.{part[0]}_proj", f"attention.{part}") for part in PARTS),
    ("attention.o_proj", "attention.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
ANY_NAMES = (*HUB_NAMES, *OTHER_NAMES, *PUBLISHED_NAMES)
UNUSED = re.compile(r"mask_token$|^pooler\.|^head\.")  # of pretraining, or of nothing


@dataclass(frozen=True, kw_only=True)
class DINO:
    """DINO's ViT-S/16 (Caron et al. 2021)."""

    weights: str = "published"  # published; random, to try a path without a download; or a file, folder or hub name
    width: int = 384  # channels, 64 to an attention head
    depth: int = 12  # transformer blocks
    patch: int = 16  # side of a patch in pixels; trained with 16, for others the embedding is resampled
    side: int = 224  # side in pixels that images are resized to

    trained_patch: ClassVar[int] = 16
    trained_grid: ClassVar[int] = 14  # patches along a side
    layer_scale: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class DINOv2:
    """DINOv2's ViT-B (Oquab et al. 2023)."""

    weights: str = "published"  # published; random, to try a path without a download; or a file, folder or hub name
    width: int = 768  # channels, 64 to an attention head
    depth: int = 12  # transformer blocks
    patch: int = 16  # side of a patch in pixels; trained with 14, for others the embedding is resampled
    side: int = 256  # side in pixels that images are resized to

    trained_patch: ClassVar[int] = 14
    trained_grid: ClassVar[int] = 37
    layer_scale: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        check_sizes(self)


def check_sizes(config: DINO | DINOv2) -> None:
    if config.width < HEAD or config.width % HEAD or config.depth < 1:
        raise ValueError(
            f"width {config.width} and depth {config.depth} are of no such network; width is a multiple of {HEAD}, "
            "the channels of an attention head, and depth at least 1"
        )
    if config.patch < 1 or config.side < config.patch or config.side % config.patch:
        raise ValueError(f"side {config.side} is not a multiple of the patch, {config.patch}; choose such a side")


class DinoFeatures(NamedTuple):
    """The result of `VisionTransformer`."""

    sequences: tuple[Float[Tensor, "b n c"], ...]  # [class token, patches in raster order] after chosen blocks
    pooled: Features | None  # (b c): the class token after the last norm; None where it was stopped after a block


class _Layers(nn.Module):
    """The weights of such a network for a grid of patches, without memory: nothing is drawn for those that come."""

    def __init__(self, config: DINO | DINOv2, patch: int, grid: int) -> None:
        super().__init__()
        c = config.width
        with torch.device("meta"):
            self.class_token = nn.Parameter(torch.empty(1, 1, c))
            self.positions = nn.Parameter(torch.empty(1, 1 + grid**2, c))
            self.embed = nn.Conv2d(3, c, patch, patch)
            blocks = (Block(c, c // HEAD, layer_scale=config.layer_scale) for _ in range(config.depth))
            self.blocks = nn.ModuleList(blocks)
            self.norm = nn.LayerNorm(c, eps=1e-6)


class VisionTransformer(_Layers):
    """A class token, and sequences after chosen blocks, of images in [-1, 1].

    Images are resized to `config.side`: by area where they shrink, bicubically where they grow. Made from weights in
    any of the three layouts; nothing in it is trained or saved. Gradients flow to the images. Raises ValueError where
    weights and config do not agree.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DINO | DINOv2, state: Mapping[str, Tensor]) -> None:
        super().__init__(config, config.patch, config.side // config.patch)
        self.config = config
        self.load_state_dict(fitted(config, state), assign=True)
        freeze(self)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Images, after: Sequence[int] | None = None) -> DinoFeatures:
        """The pooled feature; or, for less time, the sequences after so many blocks each (0: before the first)."""
        if images.shape[-2:] != (self.config.side, self.config.side):
            images = resized(images, self.config.side)
        x = self.embed(((images + 1) / 2 - self.mean) / self.std).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        found = {0: x}
        for i, block in enumerate(self.blocks[: max(after) if after is not None else None], start=1):
            found[i] = x = block(x)
        if after is not None:
            return DinoFeatures(tuple(found[i] for i in after), None)
        return DinoFeatures((), self.norm(x[:, 0]))


def resized(images: Images, side: int) -> Float[Tensor, "b 3 {side} {side}"]:
    """Squares of `side` pixels: averages of areas where images shrink, bicubic where they grow."""
    if min(images.shape[-2:]) > side:
        return F.interpolate(images, (side, side), mode="area")
    return F.interpolate(images, (side, side), mode="bicubic", align_corners=False)


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DINO or DINOv2 in any of the three layouts by the names of `VisionTransformer`."""
    used = {renamed(name, ANY_NAMES): tensor for name, tensor in state.items() if not UNUSED.search(name)}
    return fuse(used, PARTS, "qkv")


def hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DINOv2 in any of the three layouts by the names of its files on the hub."""
    apart = unfuse(our_names(state), PARTS, "qkv")
    return {original(name, HUB_NAMES): tensor for name, tensor in apart.items()}


def fitted(config: DINO | DINOv2, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, for the grid and patches of a config. Raises ValueError where they are of another network.

    The fit is of names and shapes; both embeddings are resampled where grid or patch differ.
    """
    ours, kind = our_names(state), type(config).__name__
    wanted = _Layers(config, config.trained_patch, config.trained_grid).state_dict()
    complaint = f"these are not the weights of a {kind} of {config.depth} blocks"
    check_weights(ours, wanted, complaint, "give its published file, or set the depth", shapes=False)
    width = ours["norm.weight"].shape[0]
    if width != config.width:
        raise ValueError(f"these weights of a {kind} are {width} wide, not {config.width}; set width to {width}")
    ours = {name: tensor.float() for name, tensor in ours.items()}
    ours["positions"] = resampled(ours["positions"][0], config.side // config.patch, 1)[None]
    ours["embed.weight"] = resampled_patches(ours["embed.weight"], config.patch)
    return ours


def shapes(config: DINO | DINOv2) -> dict[str, Tensor]:
    """Tensors without memory, named and shaped as in the published file of such a network."""
    published = _Layers(config, config.trained_patch, config.trained_grid).state_dict()
    return {original(name, PUBLISHED_NAMES): tensor for name, tensor in published.items()}


def random_weights(config: DINO | DINOv2) -> dict[str, Tensor]:
    """Weights as transformers start, by the published names: the same every time, from no global randomness."""
    drawn: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, empty in shapes(config).items():
            if empty.ndim > 1:
                drawn[name] = 0.02 * torch.randn(empty.shape)
            else:
                drawn[name] = torch.zeros(empty.shape) if name.endswith("bias") else torch.ones(empty.shape)
    return drawn
