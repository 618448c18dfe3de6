"""A class-conditional transformer that predicts the velocity of continuous latents: DiT, SiT, LightningDiT.

Every block is shifted, scaled and gated by noise level and label (adaLN-zero; Peebles & Xie 2023). The options are
those of LightningDiT (Yao et al. 2025, arXiv 2501.01423, table 3): SwiGLU, RMSNorm, rotary positions, qk-norm.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.generators.flow_matching import (
    FlowDraw,
    Interpolant,
    Times,
    TrainingTimes,
    along,
    draw_times,
    flow_losses,
    loss_weights,
    noise_levels,
)
from robustok.layers import (
    MLP,
    Attention,
    Modulation,
    Norm,
    Rotation,
    SwiGLU,
    axial_angles,
    build_norm,
    modulate,
    rotation,
    sincos_positions,
)
from robustok.runtime.configs import check_choices, check_least, check_shares
from robustok.runtime.pretrained import Pretrained
from robustok.shapes import Labels, Latents, Scalar

Sequence = Float[Tensor, "b n c"]
Condition = Float[Tensor, "b 1 c"]  # what noise level and label say, to every position alike
FREQUENCIES = 256  # sines and cosines that tell the noise level


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformer:
    """A transformer that predicts velocities (SiT-XL/2: width 1152, depth 28, heads 16, patch 2 on 1024 tokens)."""

    tokens: int  # tokens of a latent
    channels: int  # channels of a token
    classes: int  # labels are in [0, classes)
    width: int = 256  # channels of the transformer; a head, width / heads of them, is fastest at 64
    depth: int = 6  # transformer blocks
    heads: int = 4  # attention heads of a block
    hidden: int | None = None  # hidden width of a block's MLP; None: 4 widths, of swiglu's two halves 8/3 each
    layout: Literal["grid", "sequence"] = "grid"  # grid: tokens are a square map in raster order
    patch: int = 1  # of a grid: the side of the squares that become one position of the transformer
    mlp: Literal["gelu", "swiglu"] = "swiglu"  # kind of MLP
    norm: Norm = "rms"  # rms: learnt RMSNorm, layer: LayerNorm without weights, as DiT has it
    rotary: bool = True  # rotary positions in attention, beside the embedded ones
    qk_norm: bool = True  # queries and keys are normalised, which keeps training stable
    shifts: bool = True  # adaLN shifts too; False: it only scales and gates
    variance: bool = False  # the head makes as many channels again, which nobody uses: DiT's predicted variance
    interpolant: Interpolant = "linear"  # the path that it is trained on; cosine: diffusion's v-prediction
    label_dropout: float = 0.1  # share of training latents whose label is withheld, which guidance needs

    def __post_init__(self) -> None:
        check_least(self, 1, "tokens", "channels", "classes", "width", "depth", "heads", "patch")
        check_choices(self)
        if self.layout == "sequence" and self.patch > 1:
            raise ValueError(f"patch is {self.patch}, but a sequence has no squares; set it to 1 or layout to 'grid'")
        if self.layout == "grid" and (math.isqrt(self.tokens) ** 2 != self.tokens or self.side % self.patch):
            raise ValueError(
                f"{self.tokens} tokens are no square grid of patches of side {self.patch}; "
                "set layout to 'sequence', or patch to a divisor of the side"
            )
        check_shares(self, "label_dropout")

    @property
    def side(self) -> int:
        """Side of the grid in tokens."""
        return math.isqrt(self.tokens)

    @property
    def positions(self) -> int:
        """Positions of the transformer."""
        return self.tokens // self.patch**2


def time_features(t: Times) -> Float[Tensor, "b features"]:
    """Cosines, then sines, of t times frequencies from 1 down to 1/10,000 (Vaswani et al. 2017; ADM's order)."""
    half = FREQUENCIES // 2
    frequencies = 10_000 ** -(torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each on its normed, shifted and scaled input and gated before it is added."""

    def __init__(self, config: DiffusionTransformer):
        super().__init__()
        width = config.width
        self.norm1 = build_norm(config.norm, width, affine=config.norm == "rms")
        self.attention = Attention(width, config.heads, config.qk_norm, norm=config.norm)
        self.norm2 = build_norm(config.norm, width, affine=config.norm == "rms")
        if config.mlp == "swiglu":
            self.mlp: nn.Module = SwiGLU(width, config.hidden or int(2 / 3 * 4 * width))
        else:
            self.mlp = MLP(width, config.hidden or 4 * width, approximate="tanh")
        self.modulation = Modulation(width, 6 if config.shifts else 4)

    def forward(self, x: Sequence, condition: Condition, rotation: Rotation | None) -> Sequence:
        shift1, scale1, gate1, shift2, scale2, gate2 = self._parts(condition)
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1), rotation=rotation)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))

    def _parts(self, condition: Condition) -> tuple[Tensor, ...]:
        parts = self.modulation(condition).chunk(self.modulation.parts, dim=-1)
        none = torch.zeros_like(parts[0])
        return parts if len(parts) == 6 else (none, *parts[:2], none, *parts[2:])


class DiffusionTransformerModel(Pretrained):
    """Velocities of latents (b n d) at a noise level, as `DiffusionTransformer` says."""

    positions: Tensor
    cos: Tensor | None
    sin: Tensor | None
    kind, config_type = "latent generator", DiffusionTransformer
    times: ClassVar[TrainingTimes] = TrainingTimes()  # noise levels that it is trained at unless told
    direction: ClassVar[float] = 0.0  # weight of the velocity's direction in its loss
    config: DiffusionTransformer

    def __init__(self, config: DiffusionTransformer):
        super().__init__()
        self.config = config
        width, d = config.width, config.channels
        if config.layout == "grid":
            self.embed: nn.Module = nn.Conv2d(d, width, config.patch, config.patch)
        else:
            self.embed = nn.Linear(d, width)
        self.time1, self.time2 = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)
        self.label_embedding = nn.Embedding(config.classes + 1, width)  # the last one stands for no label
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.norm = build_norm(config.norm, width, affine=config.norm == "rms")
        self.modulation = Modulation(width, 2)
        self.head = nn.Linear(width, config.patch**2 * d * (2 if config.variance else 1))
        self._place()
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2 and "modulation" not in name:
                nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _place(self) -> None:
        """Fixed positions: they are no parameters, but part of a model's file, as other people's may differ."""
        config, side = self.config, self.config.side // self.config.patch
        if config.layout == "grid":
            embedded = sincos_positions(side, side, config.width)
            places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
        else:
            places = torch.arange(config.tokens).float().unsqueeze(1)
            angles = axial_angles(places, config.width)
            embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
        self.register_buffer("positions", embedded.unsqueeze(0))
        turned = rotation(axial_angles(places, config.width // config.heads)) if config.rotary else (None, None)
        for name, value in zip(("cos", "sin"), turned, strict=True):
            self.register_buffer(name, value)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.config.tokens, self.config.channels

    @property
    def null_class(self) -> int:
        """The label of an image of unknown class."""
        return self.config.classes

    def forward(self, latents: Latents, t: Times, labels: Labels) -> Latents:
        """The velocity at `t` along the interpolant that it is trained on."""
        config = self.config
        if latents.shape[1:] != self.latent_shape:
            raise ValueError(
                f"this generator takes latents of {self.latent_shape[0]} tokens and {self.latent_shape[1]} channels, "
                f"not {latents.shape[1]} and {latents.shape[2]}; use those of the tokenizer that it was trained on"
            )
        grid, latents = config.layout == "grid", latents.to(self.positions.dtype)
        x = self.embed(_to_map(latents, config.side)).flatten(2).mT if grid else self.embed(latents)
        x = x + self.positions  # (b, positions, width)
        turned = None if self.cos is None or self.sin is None else Rotation(self.cos, self.sin)
        condition = self.time2(F.silu(self.time1(time_features(t).to(x.dtype)))) + self.label_embedding(labels)
        condition = condition.unsqueeze(1)
        for block in self.blocks:
            x = block(x, condition, turned)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        x = self.head(modulate(self.norm(x), shift, scale))
        return _from_patches(x, config.side, config.patch, config.channels) if grid else x[..., : config.channels]

    def velocity(self, latents: Latents, t: Times, labels: Labels) -> Latents:
        """The mean of noise - data at noise level t (b,) in [0, 1] of these labels (`null_class`: of any class).

        Raises ValueError for another t, as it would be one of diffusion's discrete steps.
        """
        field = along(lambda x, t: self(x, t, labels), self.config.interpolant, "linear")
        return field(latents, noise_levels(t))

    def draw(self, b: int, *, times: TrainingTimes | None = None, generator: torch.Generator) -> FlowDraw:
        """What a training step on `b` latents draws: noise levels as `times` say, noise, and withheld labels."""
        config, times, on = self.config, times or self.times, generator.device
        t = draw_times(b, times, generator=generator)
        noise = torch.randn(b, *self.latent_shape, generator=generator, device=on)
        withheld = torch.rand(b, generator=generator, device=on) < config.label_dropout
        return FlowDraw(t, noise, withheld, loss_weights(t, times, config.interpolant))

    def loss(self, latents: Latents, labels: Labels, draw: FlowDraw) -> Scalar:
        """Mean squared error of the velocity, and of its direction as the model's authors weigh it."""
        labels = labels.masked_fill(draw.withheld.to(labels.device), self.null_class)
        noise = draw.noise.to(latents)
        losses = flow_losses(lambda x, t: self(x, t, labels), latents, noise, draw.t, self.config.interpolant)
        return (draw.weights.to(latents.device) * (losses.error + self.direction * losses.direction)).mean()


def _to_map(x: Latents, side: int) -> Float[Tensor, "b d side side"]:
    """A sequence in raster order as a square map."""
    return x.mT.unflatten(2, (side, side))


def _from_patches(x: Sequence, side: int, patch: int, channels: int) -> Float[Tensor, "b tokens d"]:
    """Tokens in raster order of patches (row, column, channel); channels beyond the latents' are dropped."""
    b, rows = len(x), side // patch
    squares = x.reshape(b, rows, rows, patch, patch, -1)[..., :channels]
    return squares.transpose(2, 3).reshape(b, side * side, channels)
