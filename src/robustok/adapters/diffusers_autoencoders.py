"""Autoencoders of the library diffusers, and its VQ model, as tokenizers.

The networks are diffusers' own, so what is saved is what diffusers loads. Facts that decide the numbers, read from
diffusers 0.42:

- AutoencoderKL: the latent is the posterior's mean; generators see (mean - shift_factor) * scaling_factor, or with
  `latents_mean` and `latents_std` in the config (mean - latents_mean) * scaling_factor / latents_std. DiTPipeline knows
  nothing of shift and statistics and divides by scaling_factor alone: pass `shifted=False` for it.
- VQModel: the codebook is not normalized; LDM's pipelines model unquantized latents, token generators its indices.
- AutoencoderTiny: latents are those of the AutoencoderKL that it stands in for, already scaled; pixels in [-1, 1].
- AutoencoderRAE: pixels in [0, 1]; it normalizes its latents itself; its `noise_tau` disturbs them in training mode.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.tokenizer_adapter import Decoding
from robustok.layers import in_float32
from robustok.runtime.checkpoint import fingerprint, write_json
from robustok.runtime.places import home
from robustok.runtime.pretrained import without_decoder
from robustok.shapes import Codebook, Images, Latents, Tokens
from robustok.tokenizer.encoder import to_map, to_sequence
from robustok.tokenizer.quantizer import Quantized, nearest_code, straight_through
from robustok.tokenizer.tokenizer import check_size

ABOUT = "robustok.json"  # beside what diffusers writes of a model
CONTINUOUS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderRAE")


class DiffusersTokenizer(Decoding, nn.Module):
    """An autoencoder of diffusers, computed in float32, and its way back to diffusers."""

    family = "diffusers"

    def __init__(self, vae: Any, image_size: int | None):
        super().__init__()
        self.stored, self.vae = vae.dtype, in_float32(vae).eval()
        self.decoder: nn.Module = self.vae.decoder  # the same module by a second name
        self.image_size = _image_size(vae, image_size)
        self.tokens_per_image = (self.image_size // stride_of(vae)) ** 2
        self.about = {"kind": "tokenizer", "family": self.family, "image_size": self.image_size}

    def fingerprint(self) -> str:
        """A hash of what decides the tokens or latents."""
        return fingerprint(without_decoder(self.vae) | dict(self.named_buffers(recurse=False)))

    def to_diffusers(self) -> Any:
        """The autoencoder, for any pipeline of diffusers; in the precision in which it came, as its pipeline has it."""
        return self.vae if self.stored == self.vae.dtype else copy.deepcopy(self.vae).to(self.stored)

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write what `from_pretrained` of diffusers reads, and beside it what is said `about` the model."""
        folder = home(folder)
        self.vae.save_pretrained(folder)
        write_json(folder / ABOUT, self.about | about)


class DiffusersAutoencoder(DiffusersTokenizer):
    """An AutoencoderKL, AutoencoderTiny or AutoencoderRAE as a continuous tokenizer.

    `image_size` is the side of the images in pixels (None: what the autoencoder's config says). Its shift factor and
    latent statistics count if `shifted` (DiTPipeline ignores them).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, image_size: int | None = None, *, shifted: bool = True):
        kind = type(vae).__name__
        if kind not in CONTINUOUS:
            raise ValueError(f"a {kind} of diffusers is not known here; give one of {', '.join(CONTINUOUS)}")
        super().__init__(vae, image_size)
        self.kind, self.about = kind, self.about | {"shifted": shifted}
        statistics = _statistics(vae.config, shifted) if kind == "AutoencoderKL" else (torch.zeros(1), torch.ones(1))
        for name, value in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, value.to(self.device), persistent=False)  # of a pipeline, which may have moved

    def encode(self, images: Images) -> Latents:
        """Latents (b n d) as a generator models them: the mean of the posterior, shifted and scaled."""
        check_size(images, self.image_size)
        match self.kind:
            case "AutoencoderKL":
                latents = self.vae.encode(images).latent_dist.mean
            case "AutoencoderTiny":
                latents = self.vae.encode(images).latents
            case _:
                latents = self.vae.encode((images + 1) / 2).latent
                if latents.ndim == 3:
                    return latents
        return (to_sequence(latents) - self.mean) / self.std

    def decode(self, codes: Latents) -> Images:
        """Images, not clamped, of latents as `encode` gives them."""
        codes = codes * self.std + self.mean
        if self.kind == "AutoencoderRAE":
            return self._decode_rae(codes) * 2 - 1
        if self.kind == "AutoencoderKL" and self.vae.post_quant_conv is not None:
            return self.decoder(self.vae.post_quant_conv(to_map(codes)))
        return self.decoder(to_map(codes))

    def _decode_rae(self, codes: Latents) -> Images:
        """As AutoencoderRAE decodes: scale, latent statistics, transformer, patches, ImageNet statistics."""
        vae = self.vae
        latents = (to_map(codes) if vae.reshape_to_2d else codes) / vae.config.scaling_factor
        latents = vae._denormalize_latents(latents)
        latents = to_sequence(latents) if vae.reshape_to_2d else latents
        patches = self.decoder(latents, return_dict=True).logits
        return vae._denormalize_image(vae.decoder.unpatchify(patches))


class DiffusersVQ(DiffusersTokenizer):
    """A VQModel as a discrete tokenizer."""

    def __init__(self, vae: Any, image_size: int | None = None):
        if type(vae).__name__ != "VQModel":
            raise ValueError(f"a {type(vae).__name__} has no codebook; give a VQModel")
        super().__init__(vae, image_size)

    @property
    def codebook(self) -> Codebook:
        return self.vae.quantize.embedding.weight

    def encode(self, images: Images) -> Latents:
        """Latents (b n d), not quantized yet."""
        check_size(images, self.image_size)
        return to_sequence(self.vae.encode(images).latents)

    def quantize(self, latents: Latents) -> Quantized:
        """Nearest codes; the loss is codebook + 0.25 commitment, as main training of every kind has it."""
        tokens = nearest_code(latents.detach(), self.codebook.detach())
        codes = self.lookup(tokens)
        loss = F.mse_loss(codes, latents.detach()) + 0.25 * F.mse_loss(latents, codes.detach())
        return Quantized(straight_through(latents, codes.detach()), tokens, loss)

    def straight_through(self, latents: Latents, codes: Latents) -> Latents:
        """`codes` going forward, `latents` going backward."""
        return straight_through(latents, codes.detach())

    def lookup(self, tokens: Tokens) -> Latents:
        """Codes of tokens (b n d)."""
        return F.embedding(tokens, self.codebook)

    def decode(self, codes: Latents) -> Images:
        """Images, not clamped."""
        quantized = to_map(codes)
        spatial = quantized if self.vae.config.norm_type == "spatial" else None
        return self.decoder(self.vae.post_quant_conv(quantized), spatial)


def stride_of(vae: Any) -> int:
    """Pixels that a latent spans along each axis."""
    config = vae.config
    match type(vae).__name__:
        case "AutoencoderTiny":
            return int(config.upsampling_scaling_factor) ** (len(config.encoder_block_out_channels) - 1)
        case "AutoencoderRAE":
            return int(config.patch_size)
        case _:
            return int(2 ** (len(config.block_out_channels) - 1))


def _image_size(vae: Any, asked: int | None) -> int:
    """The side in pixels: what was asked for, or what the config says. Raises ValueError where it does not fit."""
    if asked is not None and (type(asked) is not int or asked < 1):
        raise ValueError(f"image_size is {asked!r}; give a side in pixels, such as 256")
    if type(vae).__name__ == "AutoencoderRAE":
        own = int(vae.decoder_image_size)
        if asked not in (None, own):
            raise ValueError(f"this AutoencoderRAE makes images of {own} pixels, not {asked}")
        return own
    size = asked or vae.config.get("sample_size", 512)  # AutoencoderTiny does not say
    size = int(size[0] if isinstance(size, list | tuple) else size)
    if size % stride_of(vae):
        raise ValueError(f"image_size {size} is not a multiple of {stride_of(vae)}, the pixels that a latent spans")
    return size


def _statistics(config: Any, shifted: bool) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """(mean, std) such that a generator sees (latents - mean) / std."""
    scale, shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
    if shifted and None not in (config.get("latents_mean"), config.get("latents_std")):
        return torch.tensor(config.latents_mean).float(), torch.tensor(config.latents_std).float() / scale
    return torch.full((1,), shift if shifted else 0.0), torch.full((1,), 1 / scale)
