"""What robustok's FID is timed against: torch-fidelity's own code, with the same weights and the same images.

Where the published weights of Inception are not at hand both load random ones from one file, in the published format:
what a network costs does not depend on what it has learned.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from robustok.evaluation.features.extractor import NetworkExtractor
from robustok.evaluation.features.spaces.inception import inception_space
from robustok.evaluation.scores.image_scores import score_images
from robustok.evaluation.scores.reference import Reference
from robustok.shapes import to_images

NAME, LAYER = "inception-v3-compat", "2048"  # of the network and its pooled features in torch-fidelity
BATCH = 32  # images at once, in both
CLOSE = 1e-4  # how far the features of the two may be apart, of the largest: float32 sums over 2048 channels
SAME = 1e-3  # how far the distances may be apart, of theirs, which has roots of eigenvalues that are 0 but for rounding
ASKED_FOR = {"torchvision.datasets": ("CIFAR10", "CIFAR100", "STL10"), "torchvision.transforms.functional": ()}


class Pictures(Dataset[Tensor]):
    """Images of random blots as both programs take them: pixels by index, and images in [-1, 1] by indices."""

    def __init__(self, count: int, side: int, seed: int) -> None:
        coarse = torch.rand(count, 3, 8, 8, generator=Generator().manual_seed(seed))
        blots = F.interpolate(coarse ** (1 + seed), size=(side, side), mode="bilinear")
        self.pixels, self.seed = (255 * blots).round().byte(), seed

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]

    def images(self, indices: Tensor) -> Tensor:
        return to_images(self.pixels[indices])

    def describe(self) -> dict[str, Any]:
        return {"images": f"blots of seed {self.seed}"}


def peer() -> ModuleType | None:
    """torch-fidelity, or None where there is none. Of torchvision it gets names alone, where that is not there."""
    if find_spec("torch_fidelity") is None:
        return None
    with _named_torchvision():
        return import_module("torch_fidelity")


@contextmanager
def _named_torchvision() -> Iterator[None]:
    """torchvision for who imports it and never uses it: for its data sets, for CLIP, DINOv2 and VGG."""
    if find_spec("torchvision") is not None:
        yield
        return
    made = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms", *ASKED_FOR)}
    for name, module in made.items():
        for kind in ASKED_FOR.get(name, ()):
            setattr(module, kind, object)
        if "." in name:
            parent, _, last = name.rpartition(".")
            setattr(made[parent], last, module)
    sys.modules.update(made)
    try:
        yield
    finally:  # others look whether it is there
        for name in made:
            del sys.modules[name]


def random_weights(fidelity: ModuleType, path: Path) -> Path:
    """A file of weights by the published names, drawn so that activations stay near one from layer to layer."""

    class Untrained(fidelity.FeatureExtractorInceptionV3):  # type: ignore[name-defined,misc]
        def load_state_dict(self, state: Any, **how: Any) -> None:
            """What torch made stays."""

    torch.save({}, path)
    state = Untrained(NAME, [LAYER], feature_extractor_weights_path=str(path)).state_dict()
    generator = Generator().manual_seed(0)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            state[name] = _drawn(name, noise)
    torch.save(state, path)
    return path


def _drawn(name: str, noise: Tensor) -> Tensor:
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if name.endswith("bn.weight"):
        return 1 + 0.1 * noise
    return noise * (2 / noise[0].numel()) ** 0.5 if noise.ndim > 1 else 0.1 * noise


def peers_network(fidelity: ModuleType, weights: Path) -> Any:
    return fidelity.FeatureExtractorInceptionV3(NAME, [LAYER], feature_extractor_weights_path=str(weights))


@torch.no_grad()
def peers_features(network: Any, pixels: Tensor) -> Tensor:
    return torch.cat([network(part)[0] for part in pixels.split(BATCH)])


def peers_distance(fidelity: ModuleType, weights: Path, generated: Pictures, real: Pictures) -> float:
    """All in this process, nothing kept from other runs; loads the weights."""
    how: dict[str, Any] = {"cuda": False, "cache": False, "verbose": False, "save_cpu_ram": True, "batch_size": BATCH}
    given = {"input1": generated, "input2": real, "feature_extractor_weights_path": str(weights)}
    return float(fidelity.calculate_metrics(fid=True, **given, **how)["frechet_inception_distance"])


def our_features(extract: NetworkExtractor, pixels: Tensor) -> Tensor:
    return torch.cat([extract(part) for part in pixels.split(BATCH)])


def our_distance(weights: Path, generated: Pictures, real: Pictures) -> float:
    """Loads the weights, too; logits and spatial features are computed along with those that are asked for."""
    extract = inception_space(weights)
    return score_images(generated, Reference.of(real, extract), extract, metric="fid").value


def check_agreement(ours: Tensor, theirs: Tensor) -> float:
    """How far the features are apart, of the largest. Raises ValueError where it is too far to be the same network."""
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart <= CLOSE:
        raise ValueError(
            f"the features are {apart:.1e} of the largest apart, and {CLOSE:.0e} is what rounding explains; "
            "times of two different networks say nothing: look whether both have the weights of one file"
        )
    return apart


def check_distance(ours: float, theirs: float) -> None:
    """Raises ValueError where the two distances of the same features differ by more than rounding."""
    if not abs(ours - theirs) <= SAME * theirs:
        raise ValueError(
            f"the distance is {ours:.6g} here and {theirs:.6g} there, of features that agree; "
            "times of two different computations say nothing: look which of them leaves the definition"
        )
