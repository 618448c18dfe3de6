"""Other people's models: one file a family; which family a checkpoint is of is told by its keys."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from robustok.adapters import diffusers
from robustok.adapters.files import Adapter, Layout, read_checkpoint
from robustok.adapters.hub import SUFFIXES, WHOLE, located
from robustok.adapters.lightningdit import LightningDiT
from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.llamagen_vq import LlamaGenVQ
from robustok.adapters.maetok import MAETok
from robustok.adapters.maetok_sit import MAETokSiT
from robustok.adapters.maskgit import MaskGITVQGAN
from robustok.adapters.rar import RAR
from robustok.adapters.robustok_vit import RobusTokViT
from robustok.adapters.sit import SiT
from robustok.adapters.titok import TiTok
from robustok.adapters.var import VAR
from robustok.adapters.var_vq import VARTokenizer
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.generators.llama import LlamaModel
from robustok.generators.trained_on import check_trained_on
from robustok.runtime.checkpoint import CONFIG, read_json
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import Tokenizer

FAMILIES: tuple[type[Adapter], ...] = (
    LlamaGenVQ,
    LlamaGenGPT,
    MaskGITVQGAN,
    RAR,
    RobusTokViT,
    TiTok,
    VARTokenizer,
    VAR,
    MAETok,
    MAETokSiT,
    SiT,
    LightningDiT,
)
Kind = Literal["tokenizer", "generator"]


def recognised(state: Mapping[str, Tensor]) -> type[Adapter] | None:
    """The family whose checkpoint this is, by its names and shapes; None when it is of none."""
    return next((family for family in FAMILIES if family.fits(state)), None)


def load_tokenizer(name: str | Path, **fields: Any) -> Any:
    """The tokenizer of a name, in evaluation mode: our own, one of another family, or one of diffusers.

    `name` is a file of weights, a folder that `save_pretrained`, a run or diffusers wrote, or
    `owner/repository[:file][@revision]` of the Hugging Face hub; `model.source` then tells where it came from, and
    which weights were read where a file holds several (`model.source.weights`).
    `fields` are what a file does not tell, such as `image_size`. Raises ValueError for anything else.
    """
    return _load(name, "tokenizer", fields)


def load_generator(name: str | Path, *, tokenizer: Any = None, **fields: Any) -> Any:
    """The generator of a name, as `load_tokenizer` takes it; `fields` are such as `heads`.

    `tokenizer` is the one that it was trained on: VAR's files need it, LlamaGen's take the number of tokens from it.
    Raises ValueError for another, where the generator's folder tells.
    """
    generator = _load(name, "generator", fields, tokenizer)
    if tokenizer is not None:
        check_trained_on(generator, tokenizer)
    return generator


def _load(name: str | Path, kind: Kind, fields: Mapping[str, Any], tokenizer: Any = None) -> Any:
    source = located(name)
    find = _from_folder if source.path.is_dir() else _from_file
    try:
        model = find(source.path, kind, fields, tokenizer)
    except TypeError as error:
        if not fields:
            raise
        raise ValueError(f"{name} takes no {' or '.join(fields)} ({error}); leave out what it does not have") from error
    layout = getattr(model, "layout", None)
    model.source = replace(source, weights=layout.chosen if isinstance(layout, Layout) else None)
    return model


def _from_folder(folder: Path, kind: Kind, fields: Mapping[str, Any], tokenizer: Any) -> Any:
    if (folder / diffusers.PIPELINE).is_file():
        return diffusers.load_tokenizer(folder, **fields) if kind == "tokenizer" else diffusers.load_generator(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if fields and isinstance(config, dict) and ("family" in config or "kind" in config):
        raise ValueError(f"{folder} tells all of the model itself; leave out {', '.join(fields)}")
    match config:
        case {"family": str(family)}:
            known = {adapter.family: adapter for adapter in FAMILIES}
            if family not in known:
                raise ValueError(f"{folder} holds a {family}, which is not known here; known are {', '.join(known)}")
            _expect(kind, known[family].kind, folder)
            return known[family].from_pretrained(folder)
        case {"kind": str(own)}:
            ours = {
                "tokenizer": Tokenizer.from_pretrained,
                "autoencoder": Autoencoder.from_pretrained,
                "generator": AutoregressiveModel.from_pretrained,
                "llama generator": LlamaModel.from_pretrained,
                "latent generator": DiffusionTransformerModel.from_pretrained,
            }
            _expect(kind, "tokenizer" if own == "autoencoder" else own.rpartition(" ")[2], folder)
            return ours[own](folder)
        case {"_class_name": str()} if kind == "tokenizer":
            return diffusers.load_tokenizer(folder, **fields)
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    weights = [path for path in weights if path.name in WHOLE] or weights
    if len(weights) != 1:
        found = ", ".join(path.name for path in weights[:8]) or "none"
        raise ValueError(f"{folder} holds no model: {len(weights)} files of weights ({found}); give one of the files")
    return _from_file(weights[0], kind, fields, tokenizer)


def _from_file(path: Path, kind: Kind, fields: Mapping[str, Any], tokenizer: Any) -> Any:
    state = read_checkpoint(path, finite=False).state  # names and shapes
    family = recognised(state)
    if family is None:
        raise ValueError(
            f"{path} is of no known family: its keys are like {', '.join(sorted(state)[:3])}; "
            f"known are {', '.join(adapter.family for adapter in FAMILIES)}"
        )
    _expect(kind, family.kind, path)
    told = {}
    if family is VAR:
        told = {"tokenizer": tokenizer}
    elif family is LlamaGenGPT and tokenizer is not None:
        told = {"tokens": tokenizer.tokens_per_image}
    return family.from_checkpoint(path, **(told | dict(fields)))


def _expect(wanted: Kind, found: str, where: Path) -> None:
    if wanted != found:
        raise ValueError(f"{where} holds a {found}, not a {wanted}; give the {wanted}, or load it as a {found}")
