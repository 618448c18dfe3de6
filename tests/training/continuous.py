"""A continuous tokenizer of 32 px images that is small enough to see through: patches out, patches in."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustok.runtime.checkpoint import fingerprint, load_model, save_model
from robustok.shapes import Images, Latents
from robustok.tokenizer.encoder import patchify, unpatchify

PATCH, WIDTH = 8, 12


class Patches(nn.Module):
    """16 latents of 12 numbers an image, a linear map of each patch; the decoder is the linear map back."""

    image_size, tokens_per_image = 32, (32 // PATCH) ** 2

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(3 * PATCH**2, WIDTH)
        self.decoder: nn.Module = nn.Linear(WIDTH, 3 * PATCH**2)

    @property
    def device(self) -> torch.device:
        return self.encoder.weight.device

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.get_parameter("weight")

    def encode(self, images: Images) -> Latents:
        return self.encoder(patchify(images.contiguous(), PATCH))

    def decode(self, codes: Latents) -> Images:
        return unpatchify(self.decoder(codes), PATCH, self.image_size)

    def fingerprint(self) -> str:
        return fingerprint(self.encoder.state_dict())

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        save_model(folder, self.state_dict(), {"kind": "patches"} | about)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Patches":
        model = cls()
        model.load_state_dict(load_model(folder, "patches")[0])
        return model
