"""Tokenizers, images and an extractor small enough to score in a moment, in any process."""

from hashlib import sha256
from typing import NamedTuple

import torch
from torch import nn

from robustok.evaluation.features.extractor import Outputs
from robustok.shapes import to_images

CODES, SIDE = 256, 12


class Quantized(NamedTuple):
    tokens: torch.Tensor


def quarters(values: torch.Tensor) -> torch.Tensor:
    """(b c 2 2) blown up to images."""
    return values.repeat_interleave(SIDE // 2, 2).repeat_interleave(SIDE // 2, 3)


class Grays(nn.Module):
    """A continuous tokenizer: the latents are the mean grays of an image's quarters."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.seen_training = False

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.seen_training |= self.training
        means = nn.functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 2)
        return means.flatten(2).transpose(1, 2)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return quarters(codes.transpose(1, 2).reshape(-1, 1, 2, 2)).repeat(1, 3, 1, 1)


class Blocks(Grays):
    """A tokenizer of four tokens: each is the mean gray of a quarter, in some levels."""

    codebook: torch.Tensor

    def __init__(self, codes: int = CODES):
        super().__init__()
        self.register_buffer("codebook", torch.linspace(-1, 1, codes)[:, None])

    def quantize(self, latents: torch.Tensor) -> Quantized:
        return Quantized((latents - self.codebook.T).abs().argmin(dim=2))

    def lookup(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.codebook[tokens]


class InMemory:
    """Images that are there as pixels (b 3 h w)."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return to_images(self.pixels[indices])

    def describe(self):
        return {"name": "noise", "count": len(self), "hash": sha256(self.pixels.numpy().tobytes()).hexdigest()[:16]}


class Noise(InMemory):
    """Images of four noisy quarters, sorted by brightness."""

    def __init__(self, count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        means = torch.rand(count, 1, 2, 2, generator=generator).sort(dim=0).values * 200 + 20
        noise = torch.randn(count, 3, SIDE, SIDE, generator=generator) * 8
        super().__init__((quarters(means) + noise).clamp(0, 255).to(torch.uint8))


def shades(pixels: torch.Tensor) -> torch.Tensor:
    """Features (b 27)."""
    return nn.functional.avg_pool2d(pixels.float(), 4).flatten(1) / 50


class Classes:
    """A feature space with all there is: logits and spatial features, too."""

    name = "classes"

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.outputs(pixels).features

    def outputs(self, pixels: torch.Tensor) -> Outputs:
        features = shades(pixels)
        return Outputs(features, logits=features[:, :5], spatial=features[:, 5:11] ** 2)

    def describe(self):
        return {"features": self.name}
