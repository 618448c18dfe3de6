"""Features as they come, to their statistics and a small sample of them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from robustok.evaluation.features import FeatureSpace, extractor
from robustok.evaluation.fid import FeatureStats
from robustok.shapes import Features

KEPT = 2000  # images whose features are kept


class FeatureStream:
    """Statistics of all images added, and the features of an evenly thinned sample of them.

    The sample holds every s-th image, with s doubled whenever there are more than `keep`. It depends on the
    positions of the images alone, so two streams over the same images keep the same ones, whatever the
    batches. Memory does not grow with the number of images.
    """

    def __init__(self, space: dict[str, Any], keep: int = KEPT):
        self.space = space  # what the features are
        self.keep = keep
        self._stats: FeatureStats | None = None
        self._kept: list[Features] = []
        self._stride = 1

    def add(self, features: Features) -> None:
        part = FeatureStats.of(features)
        self._kept.append(features[-self.count % self._stride :: self._stride].cpu())
        self._stats = self._stats + part if self._stats else part
        while sum(map(len, self._kept)) > self.keep:
            self._kept = [torch.cat(self._kept)[::2]]
            self._stride *= 2

    @property
    def count(self) -> int:
        """Images so far."""
        return self._stats.count if self._stats else 0

    @property
    def stats(self) -> FeatureStats:
        """Raises ValueError when there was no image."""
        if self._stats is None:
            raise ValueError("there are no images to score; give at least two, better some thousands")
        return self._stats

    @property
    def sample(self) -> Features:
        return torch.cat(self._kept)


def feature_stream(pixels: Iterable[Tensor], features: FeatureSpace = "lite0", *, keep: int = KEPT) -> FeatureStream:
    """The stream of all batches of Pixels (b 3 h w)."""
    extract = extractor(features)
    stream = FeatureStream(extract.describe(), keep)
    for batch in pixels:
        stream.add(extract(batch))
    return stream
