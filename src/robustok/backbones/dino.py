"""DINO and DINOv2, vision transformers pretrained without labels, as frozen feature networks.

Caron et al. 2021 (arXiv 2104.14294) and Oquab et al. 2023 (arXiv 2304.07193): the same network, DINOv2 with a learnt
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
from robustok.shapes import Features, Images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1] as they were trained
HEAD = 64  # width of an attention head, in all sizes

PUBLISHED_NAMES = (  # parts of names: the authors' (also timm's), ours
    ("patch_embed.proj", "embed"),
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    ("attn", "attention"),
    ("ls1", "scale1"),
    ("ls2", "scale2"),
)
RENAMES = (  # from any layout to ours
    (r"^embeddings\.", ""),
    *((rf"(^|\.){re.escape(theirs)}(?=\.|$)", rf"\1{ours}") for theirs, ours in PUBLISHED_NAMES),
    (r"^position_embeddings$", "positions"),
    (r"^patch_embeddings\.projection\.", "embed."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.q_proj\.", ".attention.query."),
    (r"\.attention\.k_proj\.", ".attention.key."),
    (r"\.attention\.v_proj\.", ".attention.value."),
    (r"\.(attention\.output\.dense|attention\.o_proj)\.", ".attention.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".scale\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
HUB_NAMES = (  # from ours to those of DINOv2's files on the Hugging Face hub
    (r"^class_token$", "embeddings.cls_token"),
    (r"^positions$", "embeddings.position_embeddings"),
    (r"^embed\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attention\.proj\.", ".attention.output.dense."),
    (r"\.scale([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
)
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
    """What `VisionTransformer` returns."""

    sequences: tuple[Float[Tensor, "b n c"], ...]  # [class token, patches in raster order] after chosen blocks
    pooled: Features | None  # (b c): the class token after the last norm; None where it was stopped after a block


class VisionTransformer(nn.Module):
    """A class token, and sequences after chosen blocks, of images in [-1, 1].

    Images are resized to `config.side`: by area where they shrink, bicubically where they grow. Made from weights in
    any of the three layouts; nothing in it is trained or saved. Gradients flow to the images. Raises ValueError where
    weights and config do not agree.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DINO | DINOv2, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        c = config.width
        with torch.device("meta"):  # nothing is drawn for weights that are there already
            self.class_token = nn.Parameter(torch.empty(1, 1, c))
            self.positions = nn.Parameter(torch.empty(1, 1 + (config.side // config.patch) ** 2, c))
            self.embed = nn.Conv2d(3, c, config.patch, config.patch)
            blocks = (Block(c, c // HEAD, layer_scale=config.layer_scale) for _ in range(config.depth))
            self.blocks = nn.ModuleList(blocks)
            self.norm = nn.LayerNorm(c, eps=1e-6)
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
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if UNUSED.search(name):
            continue
        renamed[_renamed(name, RENAMES)] = tensor
    for name in [name for name in renamed if ".attention.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[name.replace("query", "qkv")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DINOv2 in any of the three layouts by the names of its files on the hub."""
    apart: dict[str, Tensor] = {}
    for name, tensor in our_names(state).items():
        if ".qkv." in name:
            thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            apart |= {name.replace("qkv", part): third for part, third in thirds}
        else:
            apart[name] = tensor
    return {_renamed(name, HUB_NAMES): tensor for name, tensor in apart.items()}


def _renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def fitted(config: DINO | DINOv2, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, for the grid and patches of a config. Raises ValueError where they are of another network.

    The fit is of names and shapes; both embeddings are resampled where grid or patch differ.
    """
    ours = our_names(state)
    wanted = our_names(shapes(config))
    kind = type(config).__name__
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
    c, p = config.width, config.trained_patch
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, 1 + config.trained_grid**2, c),
        "patch_embed.proj.weight": (c, 3, p, p),
        "patch_embed.proj.bias": (c,),
    }
    for i in range(config.depth):
        linear = {"attn.qkv": (3 * c, c), "attn.proj": (c, c), "mlp.fc1": (4 * c, c), "mlp.fc2": (c, 4 * c)}
        for name, (outputs, inputs) in linear.items():
            sizes |= {f"blocks.{i}.{name}.weight": (outputs, inputs), f"blocks.{i}.{name}.bias": (outputs,)}
        sizes |= {f"blocks.{i}.{norm}.{part}": (c,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        if config.layer_scale is not None:
            sizes |= {f"blocks.{i}.{scale}.gamma": (c,) for scale in ("ls1", "ls2")}
    sizes |= {"norm.weight": (c,), "norm.bias": (c,)}
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


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
