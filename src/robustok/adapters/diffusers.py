"""Models of the library diffusers: its autoencoders, its VQ model, and the class-conditional DiT pipeline.

The networks are diffusers' own (extra `diffusers`), so what is saved is what diffusers loads. Facts that decide the
numbers, read from diffusers 0.42:

- AutoencoderKL: the latent is the posterior's mean; generators see (mean - shift_factor) * scaling_factor, or with
  `latents_mean` and `latents_std` in the config (mean - latents_mean) * scaling_factor / latents_std. DiTPipeline knows
  nothing of shift and statistics and divides by scaling_factor alone: pass `shifted=False` for it.
- VQModel: the codebook is not normalized; LDM's pipelines model unquantized latents, token generators its indices.
- AutoencoderTiny: latents are those of the AutoencoderKL that it stands in for, already scaled; pixels in [-1, 1].
- AutoencoderRAE: pixels in [0, 1]; it normalizes its latents itself; its `noise_tau` disturbs them in training mode.
- DiTPipeline guides all four channels of a latent, where DiT's own code guides the first three.
- DiTPipeline guides with class 1000 as the one without label, which is only right for 1000 classes; here it is the one
  after the last.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.generators.flow_matching import noise_levels
from robustok.layers import in_float32
from robustok.runtime.checkpoint import read_json, write_json
from robustok.shapes import Codebook, Images, Labels, Latents, Tokens
from robustok.tokenizer.encoder import to_map, to_sequence
from robustok.tokenizer.quantizer import Quantized, nearest_code, straight_through
from robustok.tokenizer.tokenizer import fingerprint

CONFIG, PIPELINE, ABOUT = "config.json", "model_index.json", "robustok.json"
CONTINUOUS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderRAE")


class DiffusersAutoencoder(nn.Module):
    """An AutoencoderKL, AutoencoderTiny or AutoencoderRAE as a continuous tokenizer.

    `image_size` is the side of the images in pixels (None: what the autoencoder's config says); `shifted` whether its
    shift factor and latent statistics count (DiTPipeline ignores them).
    """

    family = "diffusers"
    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, image_size: int | None = None, *, shifted: bool = True):
        super().__init__()
        self.kind = type(vae).__name__
        if self.kind not in CONTINUOUS:
            raise ValueError(f"a {self.kind} of diffusers is not known here; give one of {', '.join(CONTINUOUS)}")
        self.stored, self.vae, self.shifted = vae.dtype, in_float32(vae).eval(), shifted
        self.decoder: nn.Module = self.vae.decoder  # the same module by a second name
        self.image_size = _image_size(vae, image_size)
        self.tokens_per_image = (self.image_size // stride_of(vae)) ** 2
        mean, std = (
            _statistics(vae.config, shifted) if self.kind == "AutoencoderKL" else (torch.zeros(1), torch.ones(1))
        )
        self.register_buffer("mean", mean.to(self.device), persistent=False)  # of a pipeline, which may have moved
        self.register_buffer("std", std.to(self.device), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.last_layer.device

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution or linear map."""
        return last_weight(self.decoder)

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
        match self.kind:
            case "AutoencoderKL":
                latents = to_map(codes)
                if self.vae.post_quant_conv is not None:
                    latents = self.vae.post_quant_conv(latents)
                return self.decoder(latents)
            case "AutoencoderTiny":
                return self.decoder(to_map(codes))
            case _:
                return self._decode_rae(codes) * 2 - 1

    def _decode_rae(self, codes: Latents) -> Images:
        """As AutoencoderRAE decodes: scale, latent statistics, transformer, patches, ImageNet statistics."""
        vae = self.vae
        latents = to_map(codes) if vae.reshape_to_2d else codes
        latents = vae._denormalize_latents(latents / vae.config.scaling_factor)
        if vae.reshape_to_2d:
            latents = to_sequence(latents)
        patches = self.decoder(latents, return_dict=True).logits
        return vae._denormalize_image(vae.decoder.unpatchify(patches))

    def fingerprint(self) -> str:
        """A hash of what decides the latents."""
        return fingerprint({"mean": self.mean, "std": self.std} | _but_decoder(self.vae))

    def to_diffusers(self) -> Any:
        """The autoencoder, for any pipeline of diffusers; in the precision in which it came, as its pipeline has it."""
        return _stored(self.vae, self.stored)

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write what `from_pretrained` of diffusers reads, and beside it what is said `about` the model."""
        save(self.vae, folder, {"image_size": self.image_size, "shifted": self.shifted} | about)


class DiffusersVQ(nn.Module):
    """A VQModel as a discrete tokenizer."""

    family = "diffusers"

    def __init__(self, vae: Any, image_size: int | None = None):
        super().__init__()
        if type(vae).__name__ != "VQModel":
            raise ValueError(f"a {type(vae).__name__} has no codebook; give a VQModel")
        self.stored, self.vae = vae.dtype, in_float32(vae).eval()
        self.decoder: nn.Module = self.vae.decoder  # the same module by a second name
        self.image_size = _image_size(vae, image_size)
        self.tokens_per_image = (self.image_size // stride_of(vae)) ** 2

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    @property
    def codebook(self) -> Codebook:
        return self.vae.quantize.embedding.weight

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return last_weight(self.decoder)

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

    def pass_through(self, latents: Latents, codes: Latents) -> Latents:
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

    def fingerprint(self) -> str:
        """A hash of what decides the tokens."""
        return fingerprint(_but_decoder(self.vae))

    def to_diffusers(self) -> Any:
        """The VQModel, for any pipeline of diffusers; in the precision in which it came, as its pipeline has it."""
        return _stored(self.vae, self.stored)

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write what `from_pretrained` of diffusers reads, and beside it what is said `about` the model."""
        save(self.vae, folder, {"image_size": self.image_size} | about)


class DiffusersDiT(nn.Module):
    """A DiTTransformer2DModel with its scheduler as a generator of latents (b n d).

    Diffusion mixes data and noise as alpha x + sigma e with alpha^2 + sigma^2 = 1; robustok as (1 - t) x + t e. Divided
    by alpha + sigma the first is the second at t = sigma / (alpha + sigma), so a prediction of the noise is one of the
    velocity e - x, and an Euler step of the velocity is a step of DDIM. Between two of the scheduler's timesteps, which
    are whole numbers, the network is given a number between them.
    """

    family = "diffusers"
    levels: Tensor  # (timesteps,), the noise level of each, rising

    def __init__(self, transformer: Any, scheduler: Any):
        super().__init__()
        self.transformer, self.scheduler = in_float32(transformer).eval(), scheduler
        config = transformer.config
        self.side, self.channels = int(config.sample_size), int(config.in_channels)
        self.latent_shape = (self.side**2, self.channels)
        self.no_label = int(config.num_embeds_ada_norm)
        self.prediction = scheduler.config.get("prediction_type", "flow")
        if self.prediction not in ("epsilon", "v_prediction", "sample", "flow"):
            raise ValueError(
                f"the scheduler's prediction_type is {self.prediction!r}; known are epsilon, v_prediction, sample and "
                "the schedulers of flow matching"
            )
        signal = getattr(scheduler, "alphas_cumprod", None)  # alpha^2 of each timestep
        steps = int(scheduler.config.num_train_timesteps)
        levels = torch.arange(1, steps + 1) / steps if signal is None else noise_level(signal.double())
        self.register_buffer("levels", levels.double().to(self.device), persistent=False)  # which may have moved

    @property
    def device(self) -> torch.device:
        return self.transformer.pos_embed.proj.weight.device

    def times(self, steps: int) -> list[float]:
        """Noise levels at which the pipeline's scheduler stands after 0, 1, ... `steps` steps; the last is 0."""
        self.scheduler.set_timesteps(steps)
        if self.prediction == "flow":
            return self.scheduler.sigmas.tolist()
        return [*self.levels[self.scheduler.timesteps.long().to(self.device)].tolist(), 0.0]

    def velocity(self, latents: Latents, t: Float[Tensor, " b"], labels: Labels) -> Latents:
        """Noise - data as the network predicts it for latents of noise level t, 0 (data) to 1 (noise)."""
        t = noise_levels(t)
        if self.prediction == "flow":
            return self._predict(latents, t * len(self.levels), labels)
        t = t.to(self.levels).clamp(self.levels[0], self.levels[-1])  # the levels that it was trained at
        after = torch.searchsorted(self.levels, t.contiguous()).clamp(1, len(self.levels) - 1)
        low, high = self.levels[after - 1], self.levels[after]
        timestep = after - 1 + (t - low) / (high - low)
        length = ((1 - t).square() + t.square()).sqrt()
        mix = [value.to(latents.dtype)[:, None, None] for value in ((1 - t) / length, t / length, length)]
        alpha, sigma, length = mix
        x = latents / length
        prediction = self._predict(x, timestep.to(latents.dtype), labels)
        match self.prediction:
            case "epsilon":
                noise, data = prediction, (x - sigma * prediction) / alpha
            case "v_prediction":
                noise, data = sigma * x + alpha * prediction, alpha * x - sigma * prediction
            case _:
                noise, data = (x - alpha * prediction) / sigma, prediction
        return noise - data

    def _predict(self, latents: Latents, timestep: Float[Tensor, " b"], labels: Labels) -> Latents:
        """What the network says of the latents; of a learnt variance nothing."""
        output = self.transformer(to_map(latents), timestep=timestep, class_labels=labels).sample
        return to_sequence(output[:, : self.channels])

    def fingerprint(self) -> str:
        """A hash of the network and its noise levels."""
        return fingerprint({"levels": self.levels} | dict(self.transformer.state_dict()))

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `transformer/` and `scheduler/` as a pipeline of diffusers has them."""
        self.transformer.save_pretrained(Path(folder) / "transformer")
        self.scheduler.save_pretrained(Path(folder) / "scheduler")
        write_json(Path(folder) / ABOUT, {"kind": "generator", "family": self.family} | about)


def noise_level(signal: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """sigma / (alpha + sigma) for alpha^2 = `signal`, sigma^2 = 1 - `signal`."""
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    return sigma / (alpha + sigma)


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


def last_weight(decoder: nn.Module) -> Tensor:
    """The weight of the convolution or linear map that is the last in a decoder."""
    return [part for part in decoder.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1].weight


def check_size(images: Images, side: int) -> None:
    """Raises ValueError for images of another size."""
    if images.shape[-2:] != (side, side):
        raise ValueError(
            f"this tokenizer takes images of {side} x {side} pixels, not {images.shape[-2]} x {images.shape[-1]}; "
            "resize or crop them, or give image_size when it is loaded"
        )


def save(model: Any, folder: str | Path, about: dict[str, Any]) -> None:
    """What diffusers writes of a model, and `robustok.json` beside it."""
    model.save_pretrained(folder)
    write_json(Path(folder) / ABOUT, {"kind": "tokenizer", "family": "diffusers"} | about)


def tokenizer_of(model: Any, image_size: int | None = None, *, pipeline: Any = None) -> Any:
    """The tokenizer that an autoencoder of diffusers is; of that `pipeline`, if one is given."""
    if pipeline is not None:
        image_size = image_size or int(pipeline.transformer.config.sample_size) * stride_of(model)
    if type(model).__name__ == "VQModel":
        return DiffusersVQ(model, image_size)
    return DiffusersAutoencoder(model, image_size, shifted=pipeline is None)


def generator_of(pipeline: Any) -> DiffusersDiT:
    """The generator in a DiTPipeline. Raises ValueError for a pipeline that is not class-conditional."""
    if type(pipeline).__name__ != "DiTPipeline":
        raise ValueError(
            f"a {type(pipeline).__name__} is not known here: of the pipelines of diffusers, robustok samples from "
            "DiTPipeline; its autoencoder can be scored and tuned by itself"
        )
    return DiffusersDiT(pipeline.transformer, pipeline.scheduler)


def adapted(tokenizer: Any, generator: Any = None, *, image_size: int | None = None) -> tuple[Any, Any]:
    """The same two models; those that are of diffusers as robustok's tokenizer and generator.

    A pipeline stands for its generator; `pipe.vae` beside `pipe` is that pipeline's tokenizer, else it takes images of
    `image_size` pixels (None: what its config says). Of models in half precision these are copies in float32.
    """
    pipeline = generator if _is_of_diffusers(generator) else None
    if _is_of_diffusers(tokenizer):
        tokenizer = tokenizer_of(tokenizer, image_size, pipeline=pipeline)
    return tokenizer, generator if pipeline is None else generator_of(pipeline)


def _is_of_diffusers(model: Any) -> bool:
    return type(model).__module__.startswith("diffusers.")


def is_diffusers(folder: Path) -> bool:
    """Whether diffusers wrote the folder: a model or a pipeline."""
    if (folder / PIPELINE).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in read_json(folder / CONFIG)


def load_tokenizer(folder: Path, image_size: int | None = None) -> Any:
    """The tokenizer in a folder that diffusers wrote: a model's, or a pipeline's with `vae/` or `vqvae/`."""
    import_extra()
    if (folder / PIPELINE).is_file():
        if (folder / "vqvae").is_dir():
            return tokenizer_of(_load(folder / "vqvae"), image_size)
        return tokenizer_of(_load(folder / "vae"), image_size, pipeline=_Parts(_load(folder / "transformer")))
    about = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    model = _load(folder)
    if type(model).__name__ == "VQModel":
        return DiffusersVQ(model, image_size or about.get("image_size"))
    return DiffusersAutoencoder(model, image_size or about.get("image_size"), shifted=about.get("shifted", True))


def load_generator(folder: Path) -> DiffusersDiT:
    """The generator in a pipeline's folder, with `transformer/` and `scheduler/`."""
    diffusers = import_extra()
    index = folder / "scheduler" / "scheduler_config.json"
    name = read_json(index)["_class_name"]
    scheduler = getattr(diffusers, name).from_pretrained(folder / "scheduler")
    return DiffusersDiT(_load(folder / "transformer"), scheduler)


class _Parts:
    """As much of a pipeline as `tokenizer_of` looks at."""

    def __init__(self, transformer: Any):
        self.transformer = transformer


def import_extra() -> Any:
    """The library diffusers. Raises ValueError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f"models of diffusers need that library ({error}); install it: pip install 'robustok[diffusers]'"
        ) from error
    return diffusers


KNOWN: Sequence[str] = (*CONTINUOUS, "VQModel", "DiTTransformer2DModel", "Transformer2DModel")


def _load(folder: Path) -> Any:
    """A model as diffusers loads it, from safetensors alone, so that nothing in the file is run."""
    diffusers = import_extra()
    name = read_json(folder / CONFIG).get("_class_name")
    if name not in KNOWN:
        raise ValueError(f"{folder} holds a {name} of diffusers; known are {', '.join(KNOWN)}")
    kind = diffusers.DiTTransformer2DModel if name == "Transformer2DModel" else getattr(diffusers, name)
    try:
        how = {
            "use_safetensors": True,
            "local_files_only": True,
            "low_cpu_mem_usage": False,
        }  # the last needs accelerate
        return kind.from_pretrained(folder, **how).eval()
    except Exception as error:  # diffusers raises many kinds; all mean that the folder is no good
        raise ValueError(
            f"{folder} cannot be loaded by diffusers ({' '.join(str(error).split())[:300]}); "
            "give a folder that its save_pretrained wrote, with safetensors"
        ) from error


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
    scale = float(config.scaling_factor)
    if not shifted:
        return torch.zeros(1), torch.full((1,), 1 / scale)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return torch.tensor(config.latents_mean).float(), torch.tensor(config.latents_std).float() / scale
    return torch.full((1,), float(config.get("shift_factor") or 0.0)), torch.full((1,), 1 / scale)


def _stored(vae: Any, dtype: torch.dtype) -> Any:
    return vae if dtype == vae.dtype else copy.deepcopy(vae).to(dtype)


def _but_decoder(vae: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vae.state_dict().items() if not name.startswith("decoder.")}
