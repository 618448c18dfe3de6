"""Models of the library diffusers (extra `diffusers`): adapted where they stand, or loaded from its folders.

Its autoencoders and VQ model are in `diffusers_autoencoders`, the class-conditional DiT pipeline in `diffusers_dit`.
"""

from pathlib import Path
from typing import Any

from robustok.adapters.diffusers_autoencoders import (
    ABOUT,
    CONTINUOUS,
    DiffusersAutoencoder,
    DiffusersVQ,
    stride_of,
)
from robustok.adapters.diffusers_dit import DiffusersDiT
from robustok.runtime.checkpoint import CONFIG, read_json

PIPELINE = "model_index.json"


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


KNOWN = (*CONTINUOUS, "VQModel", "DiTTransformer2DModel", "Transformer2DModel")


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
