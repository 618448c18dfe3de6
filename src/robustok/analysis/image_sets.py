"""Two sets of real images, what a tokenizer makes of them, and the checks that both analyses share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.evaluation.decoding import encoded
from robustok.evaluation.features.image_source import ImageSource
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.protocol import GeneratorLike
from robustok.runtime.seeding import spread
from robustok.shapes import Labels
from robustok.tokenizer.protocol import TokenizerLike

Progress = Callable[[str, int, int], None]  # told what is being done, how much of it, and of how much


@runtime_checkable
class LabeledImages(ImageSource, Protocol):
    """Real images with their classes."""

    labels: Tensor  # (len,) int64


def check_models(generator: GeneratorLike, tokenizer: TokenizerLike, sampling: Any, images: LabeledImages) -> None:
    """Raises ValueError for a generator of another tokenizer or of other classes; images of no class are of any."""
    check_fit(generator, tokenizer, sampling)
    if (images.labels != generator.null_class).any():
        check_classes(generator, images.labels, getattr(images, "classes", None))


def two_sets(labels: Labels, count: int) -> tuple[Int[Tensor, " count"], Int[Tensor, " count"]]:
    """Indices of twice `count` images spread over the set, dealt out class by class; less if it is smaller.

    Images at the same position of the two have the same class, but for one in each class at most. Raises ValueError for
    less than 100 images, whose numbers would mean nothing.
    """
    count = min(count, len(labels) // 2)
    if count < 50:
        raise ValueError(
            f"{2 * count} of {len(labels)} images are too few to be split into two sets and compared; "
            "give at least 100, better some thousands"
        )
    chosen = spread(2 * count, len(labels))
    by_class = chosen[labels[chosen].argsort(stable=True)]
    return by_class[0::2], by_class[1::2]


def encode(tokenizer: TokenizerLike, images: LabeledImages, indices: Tensor, batch_size: int) -> Tensor:
    """The tokens of some images, or their latents where there is no codebook, on the CPU."""
    return torch.cat([encoded(tokenizer, images.images(part)) for part in indices.split(batch_size)])
