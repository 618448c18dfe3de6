"""The vision transformer of RobusTok, TiTok and MAETok: class token, patches and latent tokens attend to each other."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.layers import Block, Rotation, rotation
from robustok.runtime.renaming import State, count_numbered, heads_of, sizes
from robustok.shapes import Images
from robustok.tokenizer.encoder import patches, to_sequence

# of published widths: DINOv2's small, base, large and giant; TiTok's small
HEADS: Mapping[int, int] = MappingProxyType({384: 6, 512: 8, 768: 12, 1024: 16, 1536: 24})


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The sizes of a vision transformer."""

    width: int = 768  # channels
    depth: int = 12  # blocks
    heads: int = 12  # attention heads of a block
    hidden: int = 3072  # width of a block's MLP


BASE = Transformer()


class ViTTrunk(nn.Module):
    """[class token, patches] with positions, and what is put beside them, through blocks and a norm.

    patch        side of the patches that `embedded` cuts; None: it sees no images
    latents      latent tokens that have a table of positions of their own
    rank         dimensions of the tables in the file: 3 with a leading 1, 2 without
    layer_scale  every residual branch has a learned gain, as DINOv2 has
    norm_in      there is a norm before the blocks
    eps          of all norms
    rotary       patches for which the file has mixed rotary positions: every head has its own frequencies along both
                 axes; 0: none
    """

    columns: Tensor
    rows: Tensor

    def __init__(
        self,
        size: Transformer,
        image_size: int,
        patch: int,
        *,
        sees: bool = True,
        class_token: bool = True,
        latents: int = 0,
        rank: int = 3,
        layer_scale: bool = True,
        norm_in: bool = False,
        eps: float = 1e-6,
        rotary: int = 0,
    ):
        super().__init__()
        self.n, self.heads, c = patches(image_size, patch) ** 2, size.heads, size.width

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(*(1,) * (rank - 2), rows, c))

        self.class_token = table(1) if class_token else None
        self.positions = table(1 + self.n)
        self.latent_positions = table(latents) if latents else None
        self.frequencies = None
        if rotary:
            self.frequencies = nn.Parameter(torch.randn(2, size.depth, c // 2))  # along a row, along a column
            for name, coordinates in zip(("columns", "rows"), patch_positions(rotary), strict=True):
                self.register_buffer(name, coordinates)
        self.embed = nn.Conv2d(3, c, patch, patch) if sees else None
        self.norm_in = nn.LayerNorm(c, eps=eps) if norm_in else nn.Identity()
        gain = 1e-5 if layer_scale else None
        self.blocks = nn.ModuleList(Block(c, size.heads, size.hidden / c, layer_scale=gain) for _ in range(size.depth))
        for module in self.blocks.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
        self.norm = nn.LayerNorm(c, eps=eps)

    def embedded(self, images: Images) -> Float[Tensor, "b n c"]:
        """The patches of images."""
        assert self.embed is not None, "a transformer that sees no images"
        return to_sequence(self.embed(images))

    def placed(self, x: Float[Tensor, "b n c"], *, positions: bool = True) -> Float[Tensor, "b _ c"]:
        """The class token, if there is one, and after it one token for each patch; positions are added if asked for."""
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        return x + self.positions if positions else x

    def beside(self, x: Float[Tensor, "b n c"], latents: Float[Tensor, "b l c"]) -> Float[Tensor, "b _ c"]:
        """Placed tokens and after them the latent tokens, to which their own positions are added."""
        assert self.latent_positions is not None, "a transformer without latent tokens"
        return torch.cat([x, latents + self.latent_positions], dim=1)

    def forward(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        """All tokens after the last norm. Where positions are rotary, patches come first, the class token before."""
        x = self.norm_in(x)
        for block, turn in zip(self.blocks, self._rotations(x.shape[1]), strict=True):
            x = block(x, rotation=turn)
        return self.norm(x)

    def _rotations(self, length: int) -> list[Rotation | None]:
        """Rotations of each block: every head turns the n patches by its own frequencies along both axes, no more."""
        if self.frequencies is None:
            return [None] * len(self.blocks)
        columns, rows = (
            (self.columns, self.rows) if len(self.columns) == self.n else patch_positions(self.n, self.columns.device)
        )
        along_row, along_column = self.frequencies.unsqueeze(2)  # each (depth 1 heads*pairs)
        angles = columns[:, None] * along_row + rows[:, None] * along_column
        angles = angles.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (depth heads n pairs)
        before = 0 if self.class_token is None else 1
        return [rotation(turn) for turn in F.pad(angles, (0, 0, before, length - self.n - before))]


class LatentEncoder(nn.Module):
    """Latent tokens gather what there is to say of an image."""

    def __init__(self, vision: ViTTrunk, latents: Float[Tensor, "*_ l c"]):
        super().__init__()
        self.vision, self.latents = vision, nn.Parameter(latents)

    def forward(self, images: Images) -> Float[Tensor, "b l c"]:
        latents = self.latents.expand(len(images), -1, -1)
        x = self.vision.beside(self.vision.placed(self.vision.embedded(images)), latents)
        return self.vision(x)[:, -latents.shape[1] :]


class LatentDecoder(nn.Module):
    """Mask tokens in the positions of the patches gather the image from latent tokens."""

    def __init__(self, vision: ViTTrunk, mask_token: Float[Tensor, "1 1 c"]):
        super().__init__()
        self.vision, self.mask_token = vision, nn.Parameter(mask_token)

    def gathered(self, latents: Float[Tensor, "b l c"], *, positions: bool = True) -> Float[Tensor, "b n c"]:
        """The patches' tokens after the last norm; `positions` are added to what they start from if asked for."""
        n, vision = self.vision.n, self.vision
        x = vision.placed(self.mask_token.expand(len(latents), n, -1), positions=positions)
        return vision(vision.beside(x, latents))[:, : -latents.shape[1]][:, -n:]


def patch_positions(n: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Column and row of each of n patches of a square in raster order."""
    side, patch = math.isqrt(n), torch.arange(n, device=device)
    return (patch % side).float(), (patch // side).float()


def transformer_of(
    state: State,
    part: str,
    heads: int | None,
    *,
    blocks: str = "blocks",
    positions: str = "pos_embed",
    hidden: str = "mlp.fc1",
) -> Transformer:
    """The sizes of a transformer from its part of a state: {part}.{blocks}.0 ..., whose MLPs begin with `hidden`.

    `heads` of attention where the width does not tell.
    """
    positions, first = f"{part}.{positions}", f"{part}.{blocks}.0.{hidden}.weight"
    shape = sizes(state, positions, first)
    width, depth = shape[positions][-1], count_numbered(state, rf"{re.escape(f'{part}.{blocks}')}\.(\d+)\.")
    return Transformer(width=width, depth=depth, heads=heads or heads_of(width, HEADS), hidden=shape[first][0])
