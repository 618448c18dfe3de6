"""Models of the library diffusers (extra `diffusers`): adapted where they stand, or loaded from its folders.

Its autoencoders and VQ model are in `diffusers_autoencoders`; its class-conditional DiT, with its scheduler, is a
generator of latents. Facts that decide the numbers, read from diffusers 0.42:

- DiTPipeline guides all four channels of a latent, where DiT's own code guides the first three.
- DiTPipeline guides with class 1000 as the one without label, which is only right for 1000 classes; here it is the one
  after the last.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustok.adapters.diffusers_autoencoders import ABOUT, CONTINUOUS, DiffusersAutoencoder, DiffusersVQ, stride_of
from robustok.generators.flow_matching import noise_levels
from robustok.layers import in_float32
from robustok.runtime.checkpoint import CONFIG, fingerprint, read_json, write_json
from robustok.runtime.extras import needed
from robustok.runtime.places import home
from robustok.shapes import Labels, Latents
from robustok.tokenizer.encoder import to_map, to_sequence

PIPELINE = "model_index.json"
KNOWN = (*CONTINUOUS, "VQModel", "DiTTransformer2DModel", "Transformer2DModel")


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
        self.null_class = int(config.num_embeds_ada_norm)
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
        mix = ((1 - t) / length, t / length, length)
        alpha, sigma, length = (value.to(latents.dtype)[:, None, None] for value in mix)
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
        """The network's prediction of the latents; of a learned variance nothing."""
        output = self.transformer(to_map(latents), timestep=timestep, class_labels=labels).sample
        return to_sequence(output[:, : self.channels])

    def fingerprint(self) -> str:
        """A hash of the network and its noise levels."""
        return fingerprint({"levels": self.levels} | dict(self.transformer.state_dict()))

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `transformer/` and `scheduler/` as a pipeline of diffusers has them."""
        folder = home(folder)
        self.transformer.save_pretrained(folder / "transformer")
        self.scheduler.save_pretrained(folder / "scheduler")
        write_json(folder / ABOUT, {"kind": "generator", "family": self.family} | about)


def noise_level(signal: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """sigma / (alpha + sigma) for alpha^2 = `signal`, sigma^2 = 1 - `signal`."""
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    return sigma / (alpha + sigma)


def tokenizer_of(model: Any, image_size: int | None = None, *, pipeline: Any = None, shifted: bool = True) -> Any:
    """The tokenizer that an autoencoder of diffusers is; of that `pipeline`, if one is given, which shifts nothing."""
    if pipeline is not None:
        image_size = image_size or int(pipeline.transformer.config.sample_size) * stride_of(model)
    if type(model).__name__ == "VQModel":
        return DiffusersVQ(model, image_size)
    return DiffusersAutoencoder(model, image_size, shifted=shifted and pipeline is None)


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


def load_tokenizer(folder: Path, image_size: int | None = None) -> Any:
    """The tokenizer in a folder that diffusers wrote: a model's, or a pipeline's with `vae/` or `vqvae/`."""
    if (folder / PIPELINE).is_file():
        if (folder / "vqvae").is_dir():
            return tokenizer_of(_load(folder / "vqvae"), image_size)
        pipeline = SimpleNamespace(transformer=_load(folder / "transformer"))
        return tokenizer_of(_load(folder / "vae"), image_size, pipeline=pipeline)
    about = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    return tokenizer_of(_load(folder), image_size or about.get("image_size"), shifted=about.get("shifted", True))


def load_generator(folder: Path) -> DiffusersDiT:
    """The generator in a pipeline's folder, with `transformer/` and `scheduler/`."""
    diffusers = needed("diffusers", "diffusers", f"the model in {folder}")
    name = read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]
    scheduler = getattr(diffusers, name).from_pretrained(folder / "scheduler")
    return DiffusersDiT(_load(folder / "transformer"), scheduler)


def _load(folder: Path) -> Any:
    """A model as diffusers loads it, from safetensors alone, so that nothing in the file is run."""
    diffusers = needed("diffusers", "diffusers", f"the model in {folder}")
    name = read_json(folder / CONFIG).get("_class_name")
    if name not in KNOWN:
        raise ValueError(f"{folder} holds a {name} of diffusers; known are {', '.join(KNOWN)}")
    kind = diffusers.DiTTransformer2DModel if name == "Transformer2DModel" else getattr(diffusers, name)
    try:
        how = {"use_safetensors": True, "local_files_only": True}
        return kind.from_pretrained(folder, low_cpu_mem_usage=False, **how).eval()  # True needs accelerate
    except Exception as error:  # diffusers raises many kinds; all mean that the folder is no good
        raise ValueError(
            f"{folder} cannot be loaded by diffusers ({' '.join(str(error).split())[:300]}); "
            "give a folder that its save_pretrained wrote, with safetensors"
        ) from error
