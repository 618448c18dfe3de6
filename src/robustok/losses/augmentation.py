"""Differentiable augmentation: the discriminator sees real and fake images through the same random changes.

Zhao et al. 2020 (arXiv 2006.10738), with their ranges: color, translation, cutout. Drawing is apart from
applying, so that one draw can serve several batches.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from robustok.runtime.configs import check_shares
from robustok.shapes import Images


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength of the changes to images before the discriminator sees them."""

    probability: float = 1.0  # fraction of images that each of the three kinds of change meets, on its own
    color: float = 1.0  # 1: brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5; 0: none
    translation: float = 0.125  # largest shift, as a fraction of the side; gray moves in
    cutout: float = 0.5  # side of the gray square, as a fraction of the image's side

    def __post_init__(self) -> None:
        check_shares(self, "probability", "color", "translation", "cutout")


class Changes(NamedTuple):
    """One batch's random changes; each (b), zero where an image is left alone."""

    brightness: Tensor  # added to pixels in [-1, 1]
    saturation: Tensor  # fraction by which a pixel moves away from its own gray
    contrast: Tensor  # fraction by which a pixel moves away from the image's mean
    down: Tensor  # shift, as a fraction of the height
    right: Tensor  # shift, as a fraction of the width
    hole: Tensor  # side of the square cut out, as a fraction of the image's sides
    hole_down: Tensor  # its center, as a fraction of the height
    hole_right: Tensor  # its center, as a fraction of the width


def draw_changes(config: Augmentation, count: int, *, generator: Generator) -> Changes:
    """Random changes for `count` images, on the generator's device."""
    device = generator.device
    uniform = torch.rand(7, count, generator=generator, device=device)
    strengths = torch.tensor([[config.color], [config.translation], [config.cutout]], device=device)
    met = torch.rand(3, count, generator=generator, device=device) < config.probability
    color, translation, hole = strengths * met
    signed = 2 * uniform - 1
    return Changes(
        brightness=color * signed[0] / 2,
        saturation=color * signed[1],
        contrast=color * signed[2] / 2,
        down=translation * signed[3],
        right=translation * signed[4],
        hole=hole,
        hole_down=uniform[5],
        hole_right=uniform[6],
    )


def augment(images: Images, changes: Changes) -> Images:
    """Images with the drawn changes; the same draw changes another batch alike. Gradients flow through."""
    changes = Changes(*(change.to(images.device) for change in changes))
    return cut(shift(recolor(images, changes), changes), changes)


def recolor(images: Images, changes: Changes) -> Images:
    """Brightness, then saturation, then contrast."""
    brightness, saturation, contrast = (change.view(-1, 1, 1, 1) for change in changes[:3])
    images = images + brightness
    images = images + saturation * (images - images.mean(dim=1, keepdim=True))
    return images + contrast * (images - images.mean(dim=(1, 2, 3), keepdim=True))


def shift(images: Images, changes: Changes) -> Images:
    """Each image moved by whole pixels; what moves in from outside is 0."""
    b, c, h, w = images.shape
    rows, columns = _sources(h, changes.down), _sources(w, changes.right)
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[:, None, None, :]
    images = images.gather(2, rows.clamp(0, h - 1)[:, None, :, None].expand(b, c, h, w))
    images = images.gather(3, columns.clamp(0, w - 1)[:, None, None, :].expand(b, c, h, w))
    return images * inside


def cut(images: Images, changes: Changes) -> Images:
    """A rectangle of each image set to 0; its center is anywhere in the image, so it may hang over the border."""
    h, w = images.shape[-2:]
    rows, columns = _inside(h, changes.hole_down, changes.hole), _inside(w, changes.hole_right, changes.hole)
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _sources(side: int, fraction: Tensor) -> Int[Tensor, "b side"]:
    """For each row (or column) of each image, the one that moves there."""
    return torch.arange(side, device=fraction.device) - (fraction * side).round().long()[:, None]


def _inside(side: int, center: Tensor, fraction: Tensor) -> Bool[Tensor, "b side"]:
    """For each row (or column) of each image, whether the hole covers it."""
    size = (fraction * side).round().long()
    start = (center * side).long() - size // 2
    index = torch.arange(side, device=fraction.device) - start[:, None]
    return (index >= 0) & (index < size[:, None])
