"""Models by name: robustok's own, which load themselves, those of other families, and those of diffusers."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from robustok.adapters import diffusers, family_named, family_of, fields_from
from robustok.adapters.files import Layout
from robustok.adapters.model_names import SUFFIXES, WHOLE, located
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.generators.fit import check_fit
from robustok.generators.llama import LlamaModel
from robustok.generators.masked import MaskedModel
from robustok.runtime.checkpoint import CONFIG, MODEL, read_json
from robustok.runtime.pretrained import Pretrained
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import Tokenizer

Role = Literal["tokenizer", "generator"]
TOKENIZERS: tuple[type[Pretrained], ...] = (Tokenizer, Autoencoder)
GENERATORS: tuple[type[Pretrained], ...] = (AutoregressiveModel, LlamaModel, MaskedModel, DiffusionTransformerModel)
OWN = {model.kind: model for model in (*TOKENIZERS, *GENERATORS)}


def load_tokenizer(name: str | Path, **fields: Any) -> Any:
    """The tokenizer of a name, in evaluation mode, whoever made it.

    `name` is a folder that a run or `save_pretrained` left, a file or folder of another family's weights
    (`robustok.adapters`), a folder of diffusers, or `owner/repository[:file][@revision]` of the Hugging Face hub;
    `fields` are what a file does not tell, such as `image_size`. `model.source` then says where it came from, and which
    weights were read where a file holds several (`model.source.weights`). Raises ValueError for anything else.
    """
    return _load(name, "tokenizer", fields)


def load_generator(name: str | Path, *, tokenizer: Any = None, **fields: Any) -> Any:
    """The generator of a name, as `load_tokenizer` takes it; `fields` are such as `heads`.

    `tokenizer` is the one that it was trained on: VAR's files need it, LlamaGen's take the number of tokens from it.
    Raises ValueError for another, where the generator's folder tells.
    """
    generator = _load(name, "generator", fields, tokenizer)
    if tokenizer is not None:
        check_fit(generator, tokenizer)
    return generator


def _load(name: str | Path, role: Role, fields: Mapping[str, Any], tokenizer: Any = None) -> Any:
    source = located(name)
    source = replace(source, path=_own_folder(source.path))
    find = _from_folder if source.path.is_dir() else _from_file
    try:
        model = find(source.path, role, fields, tokenizer)
    except TypeError as error:
        if not fields:
            raise
        raise ValueError(f"{name} takes no {' or '.join(fields)} ({error}); leave out what it does not have") from error
    layout = getattr(model, "layout", None)
    model.source = replace(source, weights=layout.chosen if isinstance(layout, Layout) else None)
    return model


def _own_folder(path: Path) -> Path:
    """The folder of weights of a model of robustok, of which config.json beside them tells; of all else the path."""
    told = read_json(path.with_name(CONFIG)) if path.name == MODEL and path.with_name(CONFIG).is_file() else {}
    own = isinstance(told, dict) and "family" not in told and str(told.get("kind")) in OWN
    return path.parent if own else path


def _from_folder(folder: Path, role: Role, fields: Mapping[str, Any], tokenizer: Any) -> Any:
    if (folder / diffusers.PIPELINE).is_file():
        return diffusers.load_tokenizer(folder, **fields) if role == "tokenizer" else diffusers.load_generator(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if fields and isinstance(config, dict) and ("family" in config or "kind" in config):
        raise ValueError(f"{folder} tells all of the model itself; leave out {', '.join(fields)}")
    match config:
        case {"family": str(name)}:
            family = family_named(name, folder)
            _expect(role, family.kind, folder)
            return family.from_pretrained(folder)
        case {"kind": str(kind)}:
            own = OWN.get(kind)
            _expect(role, kind if own is None else "tokenizer" if own in TOKENIZERS else "generator", folder)
            assert own is not None, "what is neither is refused"
            return own.from_pretrained(folder)
        case {"_class_name": str()} if role == "tokenizer":
            return diffusers.load_tokenizer(folder, **fields)
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    weights = [path for path in weights if path.name in WHOLE] or weights
    if len(weights) != 1:
        found = ", ".join(path.name for path in weights[:8]) or "none"
        raise ValueError(f"{folder} holds no model: {len(weights)} files of weights ({found}); give one of the files")
    return _from_file(weights[0], role, fields, tokenizer)


def _from_file(path: Path, role: Role, fields: Mapping[str, Any], tokenizer: Any) -> Any:
    _check_foreign(path)
    family = family_of(path)
    _expect(role, family.kind, path)
    return family.from_checkpoint(path, **(fields_from(tokenizer, family) | dict(fields)))


def _check_foreign(path: Path) -> None:
    """Raises ValueError for a file of our own, which alone does not tell what it is."""
    own = None
    with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        own = (file.metadata() or {}).get("robustok")
    if own == "model":
        raise ValueError(f"{path} is of robustok, but no {CONFIG} beside it says of what; copy or restore that, too")
    if own is not None:
        raise ValueError(f"{path} is a {own} file of robustok, not a model; give the folder of a model")


def _expect(wanted: Role, found: str, where: Path) -> None:
    if wanted != found:
        raise ValueError(f"{where} holds a {found}, not a {wanted}; give the {wanted}, or load it as a {found}")
