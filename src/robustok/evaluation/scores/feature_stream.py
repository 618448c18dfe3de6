"""Features as they come, to their statistics and a small sample of them."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from operator import add
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.evaluation.features.extractor import Extractor, Outputs, in_batches, outputs
from robustok.evaluation.features.image_source import BLOCK, ImageSource, Progress, check_range, images_at, pixels_of
from robustok.evaluation.features.registry import FeatureSpace, extractor
from robustok.evaluation.metrics.fid import FeatureStats
from robustok.evaluation.metrics.inception_score import ClassStats
from robustok.runtime.distributed import gather_objects, rank, world_size
from robustok.runtime.seeding import mixed
from robustok.shapes import Features, Pixels

KEPT = 2000  # images whose features are kept
SAMPLES = "as if drawn, by position"  # how they are chosen, for protocols; once they were every n-th image
SIDE = "side"  # entry of a space: pixels that the images were looked at
BATCH = 50  # images that an extractor is given at once unless it names a number

Positions = Int[Tensor, " b"]
Kept = tuple[Tensor, Tensor]  # positions (b) and features (b f)
Part = TypeVar("Part", FeatureStats, ClassStats)


class FeatureStream:
    """Statistics of all images added, and the features of a sample of them.

    Images have positions, from 0: the order in which they are added unless told. The sample holds all images, or of
    more than `keep` those at the `keep` positions of smallest `mixed`, which is as if they were drawn: sets in the
    order of their classes, or of classes in turn, have all of them in it. A stream depends neither on batches, nor on
    the order in which images come, nor on the number of processes that share them: streams add up. Memory does not
    grow with the number of images.
    """

    def __init__(self, space: dict[str, Any], keep: int = KEPT):
        if keep < 1:
            raise ValueError(f"keep is {keep}; keep the features of at least one image, better some thousands")
        self._space = space
        self._sides = set[int]()  # at which the images were looked at, where that follows their size
        self.keep = keep
        self._stats: FeatureStats | None = None
        self.spatial: FeatureStats | None = None  # statistics of spatial features, where the space has them
        self.classes: ClassStats | None = None  # and of class probabilities
        self._kept: list[Kept] = []
        self._last = torch.iinfo(torch.int64).max  # largest `mixed` that may be in the sample

    def add(self, batch: Features | Outputs, positions: Positions | None = None) -> None:
        """Take in features, or all that an extractor has to give. Raises ValueError for NaN and infinity."""
        out = batch if isinstance(batch, Outputs) else Outputs(batch)
        if out.side is not None:
            self._sides.add(out.side)
        if positions is None:
            positions = torch.arange(self.count, self.count + len(out.features))
        self._stats = _sum(self._stats, FeatureStats.of(out.features))
        if out.spatial is not None:
            self.spatial = _sum(self.spatial, FeatureStats.of(out.spatial))
        if out.logits is not None:
            self.classes = _sum(self.classes, ClassStats.of(out.logits.double().softmax(dim=1), positions))
        self._keep(positions.cpu(), out.features.cpu())

    def __add__(self, other: "FeatureStream") -> "FeatureStream":
        """The stream of both sets of images, which must have positions of their own."""
        both = FeatureStream(self._space, self.keep)
        both._sides = self._sides | other._sides
        both._stats = _sum(self._stats, other._stats)
        both.spatial = _sum(self.spatial, other.spatial)
        both.classes = _sum(self.classes, other.classes)
        for positions, features in self._kept + other._kept:
            both._keep(positions, features)
        return both

    def gather(self) -> "FeatureStream":
        """On the main process the stream of all processes' images; elsewhere its own."""
        return reduce(add, gather_objects(self) or [self])

    def _keep(self, positions: Tensor, features: Tensor) -> None:
        """Take in what may be in the sample."""
        within = mixed(positions) <= self._last
        self._kept.append((positions[within], features[within]))
        if sum(len(at) for at, _ in self._kept) > self.keep + self.keep // 4:  # not each time, which takes longer
            self._thin()

    def _thin(self) -> None:
        """Leave what is at the positions of smallest `mixed`, `keep` of them."""
        positions, features = (torch.cat(column) for column in zip(*self._kept, strict=True))
        if len(positions) > self.keep:
            order = mixed(positions)
            self._last = int(order.kthvalue(self.keep).values)
            positions, features = positions[order <= self._last], features[order <= self._last]
        self._kept = [(positions, features)]

    @property
    def space(self) -> dict[str, Any]:
        """Description of the features: the extractor's, and the side in pixels where it follows the images' size."""
        return self._space | ({SIDE: ", ".join(map(str, sorted(self._sides)))} if self._sides else {})

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
        """The features kept, in the order of their positions. Raises ValueError when there was no image."""
        assert self.stats.count
        self._thin()
        ((positions, features),) = self._kept
        return features[positions.argsort()]


def feature_stream(pixels: Iterable[Tensor], features: FeatureSpace = "lite0", *, keep: int = KEPT) -> FeatureStream:
    """The stream of all batches of Pixels (b 3 h w). Several processes share the work; the main one has the result."""
    extract = extractor(features)
    stream = FeatureStream(extract.describe(), keep)
    count = 0
    for number, batch in enumerate(_regrouped(pixels, _batch_size(extract))):
        if number % world_size() == rank():
            stream.add(extracted(extract, batch), torch.arange(count, count + len(batch)))
        count += len(batch)
    return stream.gather()


def stream_of(
    images: ImageSource,
    features: FeatureSpace = "lite0",
    *,
    keep: int = KEPT,
    batch_size: int = BLOCK,
    progress: Progress | None = None,
) -> FeatureStream:
    """The features of all images. Several processes share the work; the main one has the result."""
    check_range(images)

    def pixels(indices: Tensor) -> Pixels:
        return pixels_of(images_at(images, indices))

    return shared_stream(pixels, len(images), extractor(features), keep=keep, batch_size=batch_size, progress=progress)


def shared_stream(
    pixels: Callable[[Tensor], Pixels],
    count: int,
    extract: Extractor,
    *,
    keep: int,
    batch_size: int = BLOCK,
    progress: Progress | None = None,
) -> FeatureStream:
    """The features of the pixels of so many indices. Several processes share the work; the main one has the result."""
    stream = FeatureStream(extract.describe(), keep)
    own = torch.arange(count).split(batch_size)[rank() :: world_size()]
    for indices in own:
        stream.add(extracted(extract, pixels(indices)), indices)
        if progress is not None:
            progress(stream.count, sum(map(len, own)))
    return stream.gather()


@torch.no_grad()
def extracted(extract: Extractor, pixels: Pixels) -> Outputs:
    """All that an extractor has to give of images, which it is always given as many of at once, the last repeated.

    Networks compute an image's features in another order of additions in a batch of another size. With one size,
    they depend on the image alone, not on its company.
    """
    if not len(pixels):
        return outputs(extract, pixels)
    size = _batch_size(extract)
    return in_batches(partial(outputs, extract), pixels, size, size)


def _batch_size(extract: Extractor) -> int:
    return int(getattr(extract, "batch_size", BATCH))


def _regrouped(batches: Iterable[Tensor], size: int) -> Iterator[Pixels]:
    """The same images in batches of `size`, fewer only at the end and where images of another size follow."""
    waiting: list[Tensor] = []
    for batch in batches:
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(batch)
        if sum(map(len, waiting)) >= size:
            *whole, rest = torch.cat(waiting).split(size)
            yield from whole
            waiting = [rest]
    if waiting:
        yield torch.cat(waiting)


def _sum(a: Part | None, b: Part | None) -> Part | None:
    return a + b if a and b else a or b
