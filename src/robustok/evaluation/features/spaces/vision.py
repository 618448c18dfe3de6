"""The spaces of transformers' vision models: which network, which of its features, how it sees pixels.

All but `dinov2-224` follow the conventions of FDr6 (arXiv 2604.28190, its released evaluation; raw distances over those
of the validation set as its normalizers): pixels in [0, 1] are resized bicubically with antialiasing and not rounded,
then normalized; where a side is no multiple of the patch, zeros are added on the right and below; position embeddings
are resampled bicubically with antialiasing. That evaluation ran in bfloat16 and through timm's models; this is float32
and through transformers', so that the same weights give the same features up to its rounding.

clip        the class token after its last layer-norm, not projected. FDr6's evaluation builds timm's
            `vit_large_patch14_clip_224.openai`, which computes GELU where OpenAI trained with QuickGELU; its normalizer
            was computed so, and so this space does it too. dgm-eval's CLIP space is another network (OpenCLIP's,
            trained on DataComp)
siglip2     the output of the attention pooling. The checkpoint for 256 pixels is seen at 224, so that 16 x 16 position
            embeddings are resampled to 14 x 14. On the hub it is of the class of the first SigLIP
mae         the class token after its last layer-norm, nothing masked. dgm-eval's MAE space takes the same token of the
            same weights at the same size, but rounds the resized image and does not make it square
convnextv2  the last feature map, averaged over positions: pretrained by masked autoencoding, then fine-tuned on
            ImageNet-22k and -1k; its head's layer-norm is left out. dgm-eval's ConvNeXt space is another network
dinov2      the class token after the last layer-norm. dinov2-224 is dgm-eval's (Stein et al. 2023, arXiv 2306.04675,
            which proposed FD in this space): images resized and rounded as PIL does, position embeddings resampled as
            DINOv2's own code does it, without antialiasing and by a scale of (16 + 0.1) / 37. Weights may have any of
            three layouts: the hub's, transformers' own in memory, DINOv2's own (also timm's)
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustok.backbones.dino import HEAD, hub_names
from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs
from robustok.runtime.checkpoint import check_misfits
from robustok.runtime.extras import needed
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import TENSORS, HubModel, sha256, tensor_file
from robustok.shapes import Features, Images, Pixels

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of values in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
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


def pooled(model: Any, images: Images) -> Features:
    """The pooled output, which is the class token's or that of attention pooling."""
    return model(images).pooler_output


def class_token_of_all(model: Any, images: Images) -> Features:
    """The class token of an MAE's encoder, which sees all patches in their order; else they are shuffled."""
    patches = (images.shape[-1] // model.config.patch_size) ** 2
    order = torch.arange(float(patches), device=images.device).expand(len(images), -1)
    return model(images, noise=order).last_hidden_state[:, 0]


def average(model: Any, images: Images) -> Features:
    """The mean of the last feature map over its positions."""
    return model(images).last_hidden_state.mean(dim=(2, 3))


def released_resampling(positions: Float[Tensor, "n d"], grid: int, extra: int) -> Float[Tensor, "m d"]:
    """Position embeddings for grid x grid patches by DINOv2's own code, whose scale is a tenth of a patch too large."""
    first, patches = positions[:extra].float(), positions[extra:].float()
    old = round(len(patches) ** 0.5)
    if old == grid:
        return positions
    scale = (grid + 0.1) / old
    plane = F.interpolate(patches.T.reshape(1, -1, old, old), scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, plane.flatten(2)[0].T])


@dataclass(frozen=True, kw_only=True)
class VisionModel:
    """A published network as a feature space."""

    hub: HubModel
    kind: str  # transformers has the classes {kind}Config and {kind}Model
    view: Preprocessing
    features: Callable[[Any, Images], Features] = pooled
    positions: str = "embeddings.position_embedding.weight"  # end of the name of its position embeddings; "": none
    extra: int = 1  # position embeddings of no patch
    resample: Callable[[Tensor, int, int], Tensor] = resampled
    unused: str = "$^"  # names of tensors of other parts: a text tower, a decoder, a head
    settings: Mapping[str, Any] = field(default_factory=dict)  # in place of those of its config.json


CLIP = VisionModel(
    hub=HubModel(title="CLIP ViT-L/14", repository="openai/clip-vit-large-patch14", license="MIT"),
    kind="CLIPVision",
    view=Preprocessing(
        side=256, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), patch=14
    ),
    unused=r"text_model\.|text_projection|visual_projection|logit_scale|.*position_ids$",
    settings={"hidden_act": "gelu"},
)
SIGLIP2 = VisionModel(
    hub=HubModel(title="SigLIP 2 So400m/16", repository="google/siglip2-so400m-patch16-256", license="Apache-2.0"),
    kind="SiglipVision",
    view=Preprocessing(side=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), patch=16),
    extra=0,
    unused=r"text_model\.|logit_scale|logit_bias|.*position_ids$",
)
MAE = VisionModel(
    hub=HubModel(title="MAE ViT-L/16", repository="facebook/vit-mae-large", license="CC-BY-NC-4.0"),
    kind="ViTMAE",
    view=Preprocessing(side=224, patch=16),
    features=class_token_of_all,
    positions="embeddings.position_embeddings",
    unused=r"decoder\.",
    settings={"mask_ratio": 0.0, "layer_norm_eps": 1e-6},  # as trained; the hub's configuration says 1e-12
)
CONVNEXTV2 = VisionModel(
    hub=HubModel(title="ConvNeXt V2-B", repository="facebook/convnextv2-base-22k-224", license="CC-BY-NC-4.0"),
    kind="ConvNextV2",
    view=Preprocessing(side=224),
    features=average,
    positions="",
    unused=r"classifier\.",
)
DINOV2 = VisionModel(
    hub=HubModel(title="DINOv2 ViT-L/14", repository="facebook/dinov2-large", license="Apache-2.0"),
    kind="Dinov2",
    view=Preprocessing(side=256, patch=14),
    positions="embeddings.position_embeddings",
)
DINOV2_224 = VisionModel(
    hub=DINOV2.hub,
    kind="Dinov2",
    view=Preprocessing(side=224, patch=14, rounded=True),
    positions=DINOV2.positions,
    resample=released_resampling,
)
VISION_MODELS = {
    "dinov2": DINOV2,
    "dinov2-224": DINOV2_224,
    "clip": CLIP,
    "siglip2": SIGLIP2,
    "mae": MAE,
    "convnextv2": CONVNEXTV2,
}


class VisionSpace(nn.Module):
    """Pixels through a view into a network, to the features that are taken of it."""

    def __init__(self, view: Preprocessing, model: nn.Module, features: Callable[[Any, Images], Features]) -> None:
        super().__init__()
        self.view, self.model, self.features = view, model, features

    def forward(self, pixels: Tensor) -> Outputs:
        images = self.view(pixels).to(next(self.model.parameters()).dtype)
        return Outputs(self.features(self.model, images).float())


def vision_space(name: str, weights: Path | None = None, *, device: torch.device | str = "cpu") -> NetworkExtractor:
    """The space of that name; `weights` is a folder with config.json and the tensors, if your own.

    Of DINOv2 a file in any layout, or a folder with one, is enough.
    """
    about = VISION_MODELS[name]
    path = _tensor_file(about.hub, weights)
    state = read_tensors(path)
    if about.kind == "Dinov2":
        state = hub_names(state)
        config = _dinov2_config(state, path, about)
    else:
        if not (path.parent / "config.json").is_file():
            raise ValueError(f"there is no config.json beside {path}; put the one that was published with it there")
        with quiet():
            config = transformers(f"{about.kind}Config").from_pretrained(path.parent)
        config.image_size = about.view.padded
    for setting, value in about.settings.items():
        setattr(config, setting, value)
    for key in [key for key in state if about.positions and key.endswith(about.positions)]:
        if not key.startswith("text_model."):
            whole = state[key].ndim == 3  # (1 n d)
            new = about.resample(
                state[key][0] if whole else state[key], config.image_size // config.patch_size, about.extra
            )
            state[key] = new[None] if whole else new
    model = loaded(transformers(f"{about.kind}Model"), config, state, path, about.unused)
    space = VisionSpace(about.view, model, about.features)
    protocol = {"features": name, "weights": sha256(path)[:16], "resize": about.view.describe()}
    return NetworkExtractor(space, protocol, device=device)


def _tensor_file(model: HubModel, weights: Path | None) -> Path:
    """The file with a model's tensors: `weights` itself, the one in that folder, or the published one."""
    if weights is not None and not weights.is_dir():
        return weights
    folder = weights or model.path()
    path = tensor_file(folder)
    if path is None:
        raise ValueError(f"{folder} holds neither {TENSORS[0]} nor {TENSORS[1]}; {model.remedy()}")
    return path


def _dinov2_config(state: Mapping[str, Tensor], path: Path, about: VisionModel) -> Any:
    """The configuration, from the shapes of the tensors, since a file may come alone."""
    patches = state.get("embeddings.patch_embeddings.projection.weight")
    if about.positions not in state or patches is None:
        raise ValueError(
            f"{path} is no DINOv2: it has neither its position nor its patch embeddings; {about.hub.remedy()}"
        )
    width, patch = patches.shape[0], patches.shape[-1]
    return transformers("Dinov2Config")(
        hidden_size=width,
        num_attention_heads=width // HEAD,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        patch_size=patch,
        image_size=about.view.padded // patch * patch,
        use_mask_token=False,
    )


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
        return getattr(needed("transformers", "features", "this feature space"), name)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers meanwhile; what matters in them is checked here."""
    logging = needed("transformers", "features", "this feature space").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
