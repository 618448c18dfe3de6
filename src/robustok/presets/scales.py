"""Sizes of a run: the paper's, the same work on one GPU of 24 GB, and a few steps on a CPU; put on from outside."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, TypeAlias

from robustok.backbones.dino import DINO, DINOv2
from robustok.backbones.vgg import LPIPSVGG
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.llama import Llama
from robustok.losses.discriminator import DinoDiscriminator
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import ViT
from robustok.tokenizer.frozen_encoder import FrozenDINOv2
from robustok.training.generator_training import GeneratorTraining
from robustok.training.post_training import PostTraining
from robustok.training.tokenizer_training import TokenizerTraining

Scale: TypeAlias = Literal["paper", "one_gpu", "smoke"]
IMAGES = 1_281_167  # of ImageNet's training set
TINY_PART = ViT(patch=8, latents=16, width=64, depth=2, heads=1, layer_scale=1.0)
TINY_DINOV2 = DINOv2(weights="random", width=64, depth=2, patch=8, side=32)
TINY_DINO = DINO(weights="random", width=64, depth=2, patch=8, side=32)


def epochs(count: int, batch_size: int, images: int = IMAGES) -> int:
    """Steps in `count` epochs, in each of which what does not fill a batch is left out."""
    return count * (images // batch_size)


def varied(config: Any, **changes: Any) -> Any:
    """The config with changes; a dictionary is what changes inside of a part of it."""
    parts = {n: varied(getattr(config, n), **new) if isinstance(new, dict) else new for n, new in changes.items()}
    return replace(config, **parts)


def in_scales(micro_batches: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a function that returns the paper's run take a `scale`; one GPU gets a batch in so many micro-batches."""

    def decorate(make: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(make)
        def scaled(scale: Scale = "paper", **options: Any) -> Any:
            paper = make(**options)
            match scale:
                case "paper":
                    return paper
                case "one_gpu":  # activations of images are computed again, not kept, so that more of them fit
                    parts = min(micro_batches, paper.loop.batch_size)
                    again = {} if isinstance(paper, GeneratorTraining) else {"performance": {"checkpointing": True}}
                    return varied(paper, optim={"micro_batches": parts}, **again)
                case "smoke":
                    return tiny(paper)

        return scaled

    return decorate


def tiny(paper: TokenizerTraining | GeneratorTraining | PostTraining) -> Any:
    """Ten steps of sixteen small images, by small networks with random weights; schedules shrink along."""
    images = {
        "network": LPIPSVGG(weights="random", lin_layers="random", width=4),
        "adversary": {
            "discriminator": DinoDiscriminator(network=TINY_DINO, after=(0, 1, 2), kernel=3, together=8),
            "optim": {"warmup": 0},
        },
    }
    small: dict[str, Any] = {"ema_decay": 0.9}
    match paper:
        case TokenizerTraining(has_codebook=codebook):
            part = TINY_PART if codebook else replace(TINY_PART, latents=8)
            inner = {"quantizer": {"codebook_size": 64, "width": 8}} if codebook else {"bottleneck": {"width": 8}}
            small |= {"tokenizer": {"image_size": 32, "encoder": part, "decoder": part, **inner}}
            small |= {"start": TINY_DINOV2, "objective": images}
            if paper.tokenizer is not None and isinstance(paper.tokenizer.encoder, FrozenDINOv2):
                frozen = FrozenDINOv2(network=TINY_DINOV2)
                whole = AutoencoderConfig(
                    image_size=32, encoder=frozen, bottleneck=Plain(width=frozen.width), decoder=TINY_PART
                )
                small |= {"tokenizer": whole, "start": None}
            if codebook:
                small |= {"perturbation": {"delta": 4}, "teacher": TINY_DINOV2, "semantic_size": 32}
            else:
                small |= {"statistics_images": 64}
        case PostTraining():
            small |= {"validate_every": 5, "pairs": 32, "held_out": 16, "objective": images}
        case GeneratorTraining(generator=network):
            size = {"tokens": 16, "classes": 10, "width": 64, "depth": 2, "heads": 1}
            size |= {"codebook_size": 64} if not isinstance(network, DiffusionTransformer) else {}
            size |= {"hidden": 128} if isinstance(network, Llama) else {}
            small = {"generator": size, "ema_decay": min(paper.ema_decay, 0.9)}
    return varied(
        paper,
        loop={"steps": 10, "batch_size": 16, "log_every": 2, "save_every": 0, "preview_every": 0},
        optim={"warmup": 10 * paper.optim.warmup // paper.loop.steps},
        **small,
    )
