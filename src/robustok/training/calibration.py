"""Calibrated perturbation: as many tokens replaced, by codes as far away, as a short pilot generator is seen to err."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustok.analysis.imitation import JOINT, imitate
from robustok.analysis.prediction import teacher_forcing
from robustok.data.images import ImageSet, Indices
from robustok.data.order import batch_indices
from robustok.evaluation.pfid import Cell
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Labels, Tokens
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.tokenizer import AnyTokenizer

BLOCK = 250  # images encoded at a time


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Perturbation in two phases, whose alpha and delta a pilot generator shows once encoder and codebook are frozen.

    "departures": as often and as far as its tokens leave the real ones when each is drawn after real ones.
    "latents": those of the perturbation whose latents are nearest to those of its samples (maximum mean discrepancy).
    """

    like: Literal["departures", "latents"] = "latents"  # what of the pilot is imitated
    beta: float = 1.0  # share of the batch's images that are perturbed, 0 to 1
    freeze_from: float = 0.75  # share of training after which perturbation begins and only the decoder learns
    steps: int = 300  # of the pilot
    batch_size: int = 64  # of the pilot
    lr: float = 1e-3  # of the pilot, falling to 0 along a line
    width: int = 128  # channels of the pilot
    depth: int = 2  # transformer blocks of the pilot
    train_images: int = 20_000  # whose tokens it learns, at most
    measured: int = 1_000  # other images that it is measured on, at most a fifth of all

    def __post_init__(self) -> None:
        now(self)  # checks beta and freeze_from
        for name in ("steps", "batch_size", "width", "depth", "train_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"the pilot's {name} is {getattr(self, name)}; it must be at least 1")
        if self.lr <= 0 or self.width % 32:
            raise ValueError(
                f"the pilot's lr is {self.lr} and its width {self.width}; give a positive lr and a multiple of 32"
            )
        if self.measured < 20:
            raise ValueError(f"measured is {self.measured}; give at least 20 images, better some hundreds")


def now(perturbation: Any, alpha: float = 1.0, delta: int = 1) -> Any:
    """The perturbation itself, or what a calibrated one comes to once `alpha` and `delta` have been measured."""
    if not isinstance(perturbation, Calibrated):
        return perturbation
    share = perturbation.freeze_from
    return Perturbation(alpha=alpha, beta=perturbation.beta, delta=delta, latent_space="frozen", freeze_from=share)


def calibrate(config: Calibrated, tokenizer: AnyTokenizer, images: ImageSet | None, *, seed: int) -> Cell:
    """The alpha and delta that a pilot generator of a tokenizer's tokens shows, trained here on some of the images.

    Raises ValueError for no images or less than 100, or for a codebook of two codes, where nothing can be told apart.
    """
    if images is None:
        raise ValueError("a calibrated perturbation takes a pilot generator of some images; observe them first")
    if len(images) < 100 or len(tokenizer.codebook) < 3:
        raise ValueError(
            f"a pilot cannot be calibrated on {len(images)} images and {len(tokenizer.codebook)} codes; give at least "
            "100 images and 3 codes, or alpha and delta themselves"
        )
    order = torch.randperm(len(images), generator=stream(seed, "pilot images"))
    measured = min(config.measured, len(images) // 5)
    held, train = order[:measured], order[measured:][: config.train_images]
    tokens, labels = _tokens(tokenizer, images, train), images.labels[train].to(tokenizer.device)
    pilot = _pilot(config, tokens, labels, len(tokenizer.codebook), len(images.classes), seed)
    return measure(config.like, pilot, tokenizer, _tokens(tokenizer, images, held), images.labels[held], seed=seed)


@torch.no_grad()
def measure(
    like: Literal["departures", "latents"],
    pilot: TokenGenerator,
    tokenizer: AnyTokenizer,
    tokens: Tokens,
    labels: Labels,
    *,
    seed: int,
) -> Cell:
    """The alpha and delta of a finished pilot, on tokens that it was not trained on."""
    codebook, sampling = tokenizer.codebook.detach(), Sampling()
    labels = labels.to(tokens.device)
    if like == "departures":
        forced, _ = teacher_forcing(pilot, tokens, labels, codebook, sampling=sampling, seed=seed)
        return Cell(forced.sampled.alpha, min(forced.sampled.delta or 1, len(codebook) - 1))
    one, other = _pairs_of_a_class(labels)
    drawn = sample_tokens(pilot, labels[one], sampling, seed=derive(seed, "pilot samples"))
    found = imitate(tokens[one], tokens[other], {"sampled": drawn}, codebook, tokenizer.lookup, seed=seed)
    return found.target("sampled", JOINT).best


def _tokens(tokenizer: AnyTokenizer, images: ImageSet, rows: Indices) -> Tokens:
    with torch.no_grad():
        parts = [tokenizer.encode(images.images(part).to(tokenizer.device)) for part in rows.split(BLOCK)]
        return torch.cat([tokenizer.quantize(latents).tokens for latents in parts])


def _pilot(
    config: Calibrated, tokens: Tokens, labels: Labels, codes: int, classes: int, seed: int
) -> AutoregressiveModel:
    """A small generator after a short training."""
    shape = Autoregressive(
        codebook_size=codes,
        tokens=tokens.shape[1],
        classes=max(1, classes),
        width=config.width,
        depth=config.depth,
        heads=config.width // 32,
        order="raster",
    )
    torch.manual_seed(derive(seed, "pilot weights"))
    model = AutoregressiveModel(shape).to(tokens.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.96), weight_decay=0.03)
    batch_size = min(config.batch_size, len(tokens))
    for step in range(config.steps):
        rows = batch_indices(len(tokens), batch_size, seed, step).to(tokens.device)
        generator = stream(seed, "pilot label dropout", step)
        loss = model.loss(tokens[rows], labels[rows], model.draw(len(rows), order_share=0.0, generator=generator))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def _pairs_of_a_class(labels: Labels) -> tuple[Tensor, Tensor]:
    """Indices of two sets of images that have the same class at the same place."""
    one, other = list[Tensor](), list[Tensor]()
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        half = len(rows) // 2
        one.append(rows[:half])
        other.append(rows[half : 2 * half])
    return torch.cat(one), torch.cat(other)
