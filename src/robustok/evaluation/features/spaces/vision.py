"""Parts that the spaces of transformers' vision models share: pixels made ready, positions for another size, loading.

The conventions are those of FDr6 (arXiv 2604.28190, its released evaluation; raw distances over those of the
validation set as its normalizers): pixels in [0, 1] are resized bicubically with antialiasing and not rounded,
then normalized; where a side is no multiple of the patch, zeros are added on the right and below; position embeddings
are resampled bicubically with antialiasing. That evaluation ran in bfloat16 and through timm's models; this is float32
and through transformers', so that the same weights give the same features up to its rounding.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.evaluation.features.extractor import NetworkExtractor, Outputs
from robustok.runtime.checkpoint import check_misfits
from robustok.runtime.weights import TENSORS, HubModel, sha256, tensor_file
from robustok.shapes import Features, Images, Pixels

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of values in [0, 1]


@dataclass(frozen=True, kw_only=True)
class View:
    """Pixels as a network sees them."""

    side: int  # pixels, after resizing
    mean: tuple[float, float, float] = IMAGENET[0]  # of values in [0, 1], red, green, blue
    std: tuple[float, float, float] = IMAGENET[1]
    patch: int = 1  # sides are padded to multiples of it
    rounded: bool = False  # to whole levels after resizing rows and again after resizing columns, as PIL does

    @property
    def padded(self) -> int:
        """The side in pixels that the network gets."""
        return -(-self.side // self.patch) * self.patch

    def describe(self) -> str:
        """For a score's protocol."""
        rounding = "rounded" if self.rounded else "not rounded"
        padding = f", then padded to {self.padded}" if self.padded > self.side else ""
        return f"bicubic, antialiased, {rounding}, to {self.side} pixels{padding}"

    def __call__(self, pixels: Pixels) -> Float[Tensor, "b 3 padded padded"]:
        """Normalized images."""
        side, x = self.side, pixels.float()
        for size in [(x.shape[-2], side), (side, side)] if self.rounded else [(side, side)]:
            if x.shape[-2:] != size:
                x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
                x = (x + 0.5).floor().clamp(0, 255) if self.rounded else x
        mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (self.mean, self.std))
        more = self.padded - side
        return F.pad((x / 255 - mean) / std, (0, more, 0, more))


class VisionSpace(nn.Module):
    """Pixels through a view into a network, to the features that are taken of it."""

    def __init__(self, view: View, model: nn.Module, features: Callable[[nn.Module, Images], Features]) -> None:
        super().__init__()
        self.view, self.model, self.features = view, model, features

    def forward(self, pixels: Tensor) -> Outputs:
        return Outputs(self.features(self.model, self.view(pixels)).float())

    def extractor(self, name: str, path: Path, batch_size: int, device: torch.device | str) -> NetworkExtractor:
        """The space under a name, with its weights from `path`."""
        about = {"features": name, "weights": sha256(path)[:16], "resize": self.view.describe()}
        return NetworkExtractor(self, about, batch_size=batch_size, device=device)


def tensors_of(model: HubModel, weights: Path | None) -> Path:
    """The file with a model's tensors: `weights` itself, the one in that folder, or the published one."""
    if weights is not None and not weights.is_dir():
        return weights
    folder = weights or model.path()
    path = tensor_file(folder)
    if path is None:
        raise ValueError(f"{folder} holds neither {TENSORS[0]} nor {TENSORS[1]}; {model.remedy()}")
    return path


def config_of(kind: Any, path: Path) -> Any:
    """The configuration of class `kind` beside a file of tensors."""
    if not (path.parent / "config.json").is_file():
        raise ValueError(f"there is no config.json beside {path}; put the one that was published with it there")
    with quiet():
        return kind.from_pretrained(path.parent)


def loaded(kind: Any, config: Any, state: Mapping[str, Tensor], source: Path, unused: str = "$^") -> nn.Module:
    """A model of transformers' class `kind` with these tensors, all of them and none else, in evaluation mode.

    Tensors whose names match `unused` are those of other parts: a text tower, a decoder, a head. The names may be
    those of published files or those that transformers has in memory. Raises ValueError where they do not fit.
    """
    state = {name: tensor.float() for name, tensor in state.items() if not re.match(unused, name)}
    try:
        with quiet():
            model, report = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit {kind.__name__}: {str(error).strip().splitlines()[-1]}") from error
    misfits = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(map(str, report["mismatched_keys"])),
    }
    remedy = "give the published file, or one with its names and its config.json"
    check_misfits(misfits, f"{source} does not fit {kind.__name__}", remedy)
    return model.eval().requires_grad_(False)


def transformers(name: str) -> Any:
    """A class of the package transformers."""
    with quiet():
        import transformers as package

        return getattr(package, name)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers meanwhile; what matters in them is checked here."""
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError("this feature space needs transformers: pip install 'robustok[features]'") from error
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
