"""Calibrated perturbation: as many tokens replaced, by codes as far away, as a short pilot generator is seen to err."""

from dataclasses import dataclass
from functools import partial

import torch

from robustok.data.images import ImageSet
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.noise import uniforms
from robustok.generators.sampling import draw_codes
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Codebook, Labels, Tokens
from robustok.tokenizer.perturbation import DISTANCES
from robustok.tokenizer.protocol import TokenizerLike, books_of, codebook_of
from robustok.training.pilot import Pilot, encoded_images, new_pilot, train_pilot


@dataclass(frozen=True, kw_only=True)
class Calibrated(Pilot):
    """Perturbation in two phases, whose alpha and delta a pilot generator shows once encoder and codebook are frozen.

    As often and as far as its tokens leave the real ones, where each is drawn after real ones. Those mostly fit their
    context, replacements fit nothing: where it was tried (docs/studies/main_training/sizing.md), it was far too strong.
    """

    measured: int = 1_000  # other images that it is measured on, at most a fifth of all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measured < 20:
            raise ValueError(f"measured is {self.measured}; give at least 20 images, better some hundreds")


def check_calibrated(tokenizer: TokenizerLike, images: ImageSet | None) -> Codebook:
    """The codes of a tokenizer. Raises ValueError for what `calibrate` cannot learn from, to be asked before training.

    That is no images or less than 100, or a codebook of two codes, where nothing can be told apart.
    """
    if images is None:
        raise ValueError(
            "a calibrated perturbation takes a pilot generator of some images; give them to set_reference first"
        )
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "only codes are perturbed by a calibrated perturbation"
    if len(images) < 100 or len(codebook) < 3:
        raise ValueError(
            f"a pilot cannot be calibrated on {len(images)} images and {len(codebook)} codes; give at least "
            "100 images and 3 codes, or alpha and delta themselves"
        )
    return codebook


def calibrate(config: Calibrated, tokenizer: TokenizerLike, images: ImageSet | None, *, seed: int) -> tuple[float, int]:
    """The (alpha, delta) that a pilot generator of a tokenizer's tokens shows, trained here on some of the images.

    Raises ValueError as `check_calibrated` does.
    """
    codebook = check_calibrated(tokenizer, images)
    assert images is not None, "else it is refused"
    order = torch.randperm(len(images), generator=stream(seed, "pilot images"))
    measured = min(config.measured, len(images) // 5)
    held, train = order[:measured], order[measured:][: config.train_images]
    tokens = encoded_images(tokenizer, images, train)
    shape = tokens.shape[1], len(codebook), len(images.classes)
    device = tokenizer.device
    pilot = train_pilot(config, partial(new_pilot, config, *shape), tokens, images.labels[train], device, seed=seed)
    tokens, labels = encoded_images(tokenizer, images, held).to(device), images.labels[held].to(device)
    drawn = pilot_tokens(pilot, tokens, labels, seed=seed)
    return departing(drawn, tokens, codebook.detach(), books=books_of(tokenizer))


@torch.no_grad()
def pilot_tokens(pilot: AutoregressiveModel, tokens: Tokens, labels: Labels, *, seed: int) -> Tokens:
    """Tokens (b n), each drawn from what a generator predicts after the real ones before it, at temperature 1."""
    uniform = uniforms(derive(seed, "pilot tokens"), range(len(tokens)), tokens.shape[1]).to(tokens.device)
    rows = max(1, DISTANCES // (tokens.shape[1] * pilot.codebook_size))
    parts = zip(tokens.split(rows), labels.split(rows), uniform.split(rows), strict=True)
    drawn = [
        draw_codes(pilot(real, label).float().flatten(0, 1).softmax(dim=1), number.flatten()).view_as(real)
        for real, label, number in parts
    ]
    return torch.cat(drawn)


def departing(drawn: Tokens, real: Tokens, codebook: Codebook, *, books: int = 1) -> tuple[float, int]:
    """The (alpha, delta) of the perturbation that departs as often as `drawn` do from `real` tokens, and as far.

    alpha is the fraction that differs. Replacements drawn uniformly from the delta nearest codes have the median rank
    (delta + 1) / 2, so delta is twice the median rank of what differs, less one; 1 where nothing does. Of several
    codebooks, one below the other, ranks are those in the real code's own.
    """
    differs, size = drawn != real, len(codebook) // books
    book = torch.arange(len(codebook), device=codebook.device) // size
    start, end = real[differs], drawn[differs]
    ranks = []
    for a, b in zip(*(part.split(max(1, DISTANCES // len(codebook))) for part in (start, end)), strict=True):
        distances = torch.cdist(codebook[a], codebook).masked_fill(book[a][:, None] != book, torch.inf)
        nearer = distances < distances.gather(1, b[:, None])
        ranks.append(nearer.scatter(1, a[:, None], True).sum(dim=1))  # the code itself, and with it ranks from 1 on
    median = float(torch.cat(ranks).double().quantile(0.5)) if len(start) else 1.0
    return float(differs.double().mean()), min(round(2 * median - 1), size - 1)
