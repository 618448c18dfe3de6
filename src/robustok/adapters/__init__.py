"""Other people's models: one file a family; which family a checkpoint is of is told by its keys."""

from collections.abc import Mapping

from torch import Tensor

from robustok.adapters.files import Adapter
from robustok.adapters.lightningdit import LightningDiT
from robustok.adapters.maetok import MAETok
from robustok.adapters.maetok_sit import MAETokSiT
from robustok.adapters.robustok_vit import RobusTokViT
from robustok.adapters.sit import SiT
from robustok.adapters.var_vq import VARTokenizer

FAMILIES: tuple[type[Adapter], ...] = (RobusTokViT, VARTokenizer, MAETok, MAETokSiT, SiT, LightningDiT)


def recognised(state: Mapping[str, Tensor]) -> type[Adapter] | None:
    """The family whose checkpoint this is, by its names and shapes; None when it is of none."""
    return next((family for family in FAMILIES if family.fits(state)), None)
