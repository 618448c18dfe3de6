"""Feature spaces that nothing was trained in: small classifiers of the images, trained here, each from its own seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.data.images import ImageSet
from robustok.data.order import batch_indices
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.runtime.checkpoint import load_model, save_model
from robustok.runtime.seeding import derive
from robustok.shapes import Features, Images, Pixels, to_images

BATCH = 128


class Convolutions(nn.Module):
    """Three convolutions; the features are what the last linear layer sees."""

    def __init__(self, side: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (-(-side // 4)) ** 2, 128),
            nn.GELU(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, gray: Tensor) -> Tensor:
        return self.body(gray)


class Perceptron(nn.Module):
    """Three linear layers on all pixels."""

    def __init__(self, side: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(side**2, 256), nn.GELU(), nn.Linear(256, 128), nn.LayerNorm(128), nn.GELU()
        )
        self.head = nn.Linear(128, 10)

    def forward(self, gray: Tensor) -> Tensor:
        return self.body(gray)


CLASSIFIERS: dict[str, tuple[Callable[[int], nn.Module], int]] = {  # name: network, seed
    "convolutions": (Convolutions, 101),
    "perceptron": (Perceptron, 202),
}


class Classifier:
    """The penultimate features of a classifier: an `Extractor`."""

    def __init__(self, name: str, network: nn.Module, about: dict[str, Any]):
        self.name, self.network, self.about = name, network.eval().requires_grad_(False), about

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        return torch.cat([self.network(gray(to_images(part))) for part in pixels.split(500)])

    def describe(self) -> dict[str, Any]:
        return {"features": self.name, **self.about}


def gray(images: Images) -> Tensor:
    """The mean of the three channels: (b 1 h w)."""
    return images.mean(dim=1, keepdim=True)


def classifier(name: str, train: ImageSet, validation: ImageSet, folder: Path, steps: int) -> Classifier:
    """A classifier of images, trained once and read back ever after."""
    make, seed = CLASSIFIERS[name]
    torch.manual_seed(derive(seed, "classifier"))
    network = make(train.size)
    if not (folder / "config.json").exists():
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            rows = batch_indices(len(train), BATCH, seed, step)
            logits = network.head(network(gray(train.images(rows))))
            optimizer.zero_grad()
            F.cross_entropy(logits, train.labels[rows]).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            logits = network.head(network(gray(validation.images(torch.arange(len(validation))))))
        accuracy = float((logits.argmax(dim=1) == validation.labels).double().mean())
        about = {"seed": seed, "steps": steps, "accuracy": accuracy}
        save_model(folder, network.state_dict(), {"kind": "classifier", "about": about})
    state, saved = load_model(folder, "classifier")
    network.load_state_dict(state)
    return Classifier(name, network, saved["about"])


def spaces(train: ImageSet, validation: ImageSet, folder: Path, steps: int) -> dict[str, Extractor]:
    """Every space that the study scores in; only the first one has to do with a loss of the training."""
    trained = {name: classifier(name, train, validation, folder / name, steps) for name in CLASSIFIERS}
    return {"lite0": lite0(), **trained}
