"""Other people's models, by family; which family a checkpoint is of is told by its keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robustok.adapters.adapter import Adapter
from robustok.adapters.diffusion_transformers import LightningDiT, MAETokSiT, SiT
from robustok.adapters.files import read_checkpoint
from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.llamagen_vq import LlamaGenVQ
from robustok.adapters.maetok import MAETok
from robustok.adapters.maskgit import MaskGITVQGAN
from robustok.adapters.rar import RAR
from robustok.adapters.robustok_vit import RobusTokViT
from robustok.adapters.titok import TiTok
from robustok.adapters.titok_generators import TiTokBERT, TiTokUViT
from robustok.adapters.var import VAR
from robustok.adapters.var_vq import VARTokenizer

FAMILIES: tuple[type[Adapter], ...] = (
    *(LlamaGenVQ, MaskGITVQGAN, RobusTokViT, TiTok, VARTokenizer, MAETok),  # tokenizers
    *(LlamaGenGPT, RAR, VAR, TiTokBERT, TiTokUViT, MAETokSiT, SiT, LightningDiT),  # generators
)


def recognized(state: Mapping[str, Tensor]) -> type[Adapter] | None:
    """The family whose checkpoint this is, by its names and shapes; None when it is of none."""
    return next((family for family in FAMILIES if family.matches(state)), None)


def family_named(name: str, where: Path) -> type[Adapter]:
    """The family that a folder says to hold. Raises ValueError for an unknown one."""
    known = {family.family: family for family in FAMILIES}
    if name not in known:
        raise ValueError(f"{where} holds a {name}, which is not known here; known are {', '.join(known)}")
    return known[name]


def family_of(path: Path) -> type[Adapter]:
    """The family of a file of weights. Raises ValueError for one of no known family."""
    state = read_checkpoint(path, finite=False).state  # names and shapes
    family = recognized(state)
    if family is None:
        raise ValueError(
            f"{path} is of no known family: its keys are like {', '.join(sorted(state)[:3])}; "
            f"known are {', '.join(adapter.family for adapter in FAMILIES)}"
        )
    return family


def fields_from(tokenizer: Any, family: type[Adapter]) -> dict[str, Any]:
    """Fields that a generator's file does not tell and its tokenizer does."""
    if family is VAR:
        return {"tokenizer": tokenizer}
    return {"tokens": tokenizer.tokens_per_image} if family is LlamaGenGPT and tokenizer is not None else {}
