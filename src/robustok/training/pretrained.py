"""Pretrained networks, from the configs that name them: the one place where training reads other people's weights.

Weights are "published" (fetched once, their hash checked where it is known; see `robustok doctor`), "random" (to try a
path or a speed without a download), or a file, a folder or a hub name of the user's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustok.backbones import dino, vgg
from robustok.backbones.dino import DINO, DINOv2, VisionTransformer
from robustok.backbones.lite import LITE0, LITE2, POOLED, EfficientNetLite0, Lite
from robustok.backbones.resampling import resampled, resampled_patches
from robustok.backbones.vgg import HED_STAGES, LPIPSVGG, VGGHED, vgg_hed
from robustok.losses import lpips
from robustok.losses.discriminator import AnyDiscriminator, DinoDiscriminator, build_discriminator
from robustok.losses.perceptual import Colors, Perceptual
from robustok.runtime.weights import WeightFile, weights_at
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.decoder import ViTDecoder
from robustok.tokenizer.encoder import ViTEncoder
from robustok.tokenizer.frozen_encoder import FrozenDINOv2, FrozenEncoder
from robustok.tokenizer.tokenizer import Tokenizer

DINO_S16 = WeightFile(
    title="DINO ViT-S/16",
    names=("dino_deitsmall16_pretrain.pth",),
    url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    sha256=None,
    size=87_000_000,
    license="Apache-2.0",
)
DINOV2_B14 = WeightFile(
    title="DINOv2 ViT-B/14",
    names=("dinov2_vitb14_pretrain.pth",),
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    size=346_378_731,
    license="Apache-2.0",
)
LITES = {"lite0": LITE0, "lite2": LITE2}
EMBEDDED_SPACES = (*LITES, "vgg-hed", "colors")  # that the Frechet term may be taken in
FROM_NOTHING = 1e-6  # standard deviation that mask and latent tokens start with in the released tokenizer


class Teacher(NamedTuple):
    """A frozen network for the semantic term."""

    network: nn.Module  # `network(images).pooled` are the features
    width: int  # of the features


def perceptual_network(config: EfficientNetLite0 | VGGHED | LPIPSVGG, stages: int, size: int | None) -> Perceptual:
    """The perceptual distance in the first `stages` maps of a network, of images resized to `size` if it is given."""
    match config:
        case EfficientNetLite0():
            return Perceptual(Lite(), stages, size)
        case VGGHED():
            return Perceptual(vgg_hed(), stages, size)
        case LPIPSVGG(weights=weights, lin_layers=lin):
            tensors = vgg.random_vgg_weights(config) if weights == "random" else weights_at(weights, vgg.VGG16)
            fitted = vgg.random_lin_layers(config) if lin == "random" else weights_at(lin, vgg.LIN_LAYERS)
            return lpips.lpips_of(tensors, fitted, f"{lin} file of lin layers", stages, size)


def embedded_network(space: str, stages: int, size: int | None) -> Perceptual | Colors:
    """The network of one of `EMBEDDED_SPACES`, in its first `stages` maps, or in all that it has where it has fewer."""
    if space == "colors":
        return Colors()
    if space == "vgg-hed":
        return Perceptual(vgg_hed(), min(stages, HED_STAGES), size)
    return Perceptual(Lite(LITES[space]), stages, size)


def semantic_teacher(config: EfficientNetLite0 | DINOv2) -> Teacher:
    """The network whose features say what is in an image."""
    match config:
        case EfficientNetLite0():
            return Teacher(Lite(), POOLED)
        case DINOv2():
            return Teacher(VisionTransformer(config, dino_weights(config)), config.width)


def discriminator(config: AnyDiscriminator) -> nn.Module:
    """A fresh discriminator, its frozen network loaded where it has one."""
    match config:
        case DinoDiscriminator(network=network):
            return build_discriminator(config, VisionTransformer(network, dino_weights(network)))
    return build_discriminator(config)


def dino_weights(config: DINO | DINOv2) -> dict[str, Tensor]:
    """The weights that a config names, in whichever layout. Raises ValueError when they cannot be had."""
    if config.weights == "random":
        return dino.random_weights(config)
    return weights_at(config.weights, DINO_S16 if isinstance(config, DINO) else DINOV2_B14)


def fill_frozen_encoder(tokenizer: Autoencoder) -> None:
    """Give the frozen encoder of a new tokenizer, if it has one, the weights that its config names.

    Raises ValueError when they cannot be had.
    """
    encoder = tokenizer.encoder
    if isinstance(encoder, FrozenEncoder) and isinstance(encoder.config, FrozenDINOv2):
        network = encoder.config.network
        encoder.take(dict(VisionTransformer(network, dino_weights(network)).named_buffers()))


def begin_with_dinov2(tokenizer: Tokenizer | Autoencoder, config: DINOv2) -> None:
    """Let a tokenizer's vision transformers, encoder and decoder, begin with the weights of a DINOv2.

    As the released tokenizer (qiuk2/RobusTok) does: blocks, last norm, class token and positions, and in an encoder the
    patch embedding, both embeddings resampled to its own grid and patches. Mask tokens, and latent tokens that have
    positions, start at next to nothing. What leads into and out of the codes, and to the pixels, stays as it was drawn.
    Raises ValueError where encoder or decoder are of another kind or size, or the weights cannot be had.
    """
    weights = dino.our_names(dino_weights(config))
    for part in (tokenizer.encoder, tokenizer.decoder):
        if not isinstance(part, ViTEncoder | ViTDecoder):
            raise ValueError(f"a {type(part).__name__} cannot begin with a DINOv2; make encoder and decoder a ViT")
        _begin(part, config, weights)


@torch.no_grad()
def _begin(part: ViTEncoder | ViTDecoder, config: DINOv2, weights: dict[str, Tensor]) -> None:
    blocks = {name.removeprefix("blocks."): w for name, w in weights.items() if name.startswith("blocks.")}
    if {name: w.shape for name, w in part.blocks.state_dict().items()} != {name: w.shape for name, w in blocks.items()}:
        raise ValueError(
            f"the blocks of this {type(part).__name__} are not those of a DINOv2 {config.width} wide and "
            f"{config.depth} deep; give the ViT that width and depth, {config.width // dino.HEAD} heads, a layer_scale"
        )
    part.blocks.load_state_dict(blocks)
    part.norm.load_state_dict({name: weights[f"norm.{name}"] for name in ("weight", "bias")})
    positions = resampled(weights["positions"][0], round(len(part.positions) ** 0.5), 1)
    part.class_token.copy_(weights["class_token"][0] + positions[:1])
    part.positions.copy_(positions[1:])
    tokens = part.mask_token if isinstance(part, ViTDecoder) else part.latent_tokens
    if isinstance(part, ViTDecoder) or len(tokens) == len(part.positions):
        tokens.mul_(FROM_NOTHING / tokens.std())
    if isinstance(part, ViTEncoder):
        kernel = resampled_patches(weights["embed.weight"].float(), part.patch)
        part.embed.weight.copy_(kernel.permute(0, 2, 3, 1).flatten(1))  # a patch as row, column, channel
        part.embed.bias.copy_(weights["embed.bias"])
