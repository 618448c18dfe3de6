"""Encoded image files as an image set: read, decoded, cropped and put into batches by several threads.

Pillow lets other threads run while it decodes and resizes, so threads do what processes would, and share memory.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from robustok.data import decoding
from robustok.data.classes import check_none_lost
from robustok.data.images import Draws, ImageSet, Indices
from robustok.data.order import Windows
from robustok.runtime.checkpoint import short_hash
from robustok.runtime.threads import cores
from robustok.runtime.whole_numbers import whole_number, whole_numbers
from robustok.runtime.words import reason, some
from robustok.shapes import Images

CHECKED_AT_ONCE = 4096  # files, for all outcomes together are many
Errors: TypeAlias = Literal["skip", "raise", "defer", "replace"]
T = TypeVar("T")


class Broken(NamedTuple):
    """A file that could not be decoded."""

    name: str
    reason: str


class Files:
    """Image files by index, still encoded, wherever they lie."""

    place: str  # where they lie, as errors call it
    labels: Tensor  # (len,) int64
    classes: tuple[str, ...]
    windows: Windows | None = None  # the order in which they are read fast; None: any
    errors: Errors = "defer"  # what becomes of broken ones, unless the user says

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """The bytes of a file. Raises BrokenFileError where there are none."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """A file as errors call it."""
        return f"row {index}"

    def listed(self) -> tuple[str, str | bytes]:
        """The name of the set, and what tells it from others."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Name, count, and hash of what is listed."""
        name, listing = self.listed()
        data = os.fsencode(listing) if isinstance(listing, str) else listing
        return {"name": name, "count": len(self), "hash": short_hash(data)}


class FileView(TypedDict, total=False):
    """Options of how image files are read, see `ImageFiles`."""

    errors: Errors | None
    upscale: bool
    flip: bool
    draft: bool
    workers: int | None


class ImageFiles(ImageSet):
    """An image set of encoded files; see `decoding` for how each kind of file becomes RGB.

    `images` is ADM's center crop, `training_images` its random crop and, if `flip`, a mirror image half of the time.

    errors   "skip", or None: every file is decoded once in advance, and a broken one left out, with one warning for
             all; `broken` lists them. "raise": likewise, but a broken file is a ValueError.
             "defer": nothing is decoded in advance, which saves an hour on a million images; the batch that
             meets a broken file raises a ValueError.
             "replace": the batch that meets a broken file takes the next image of its class instead, always the same
             one; `replaced` lists them, with a warning for the first.
    upscale  whether pictures smaller than `size` are enlarged, as ADM does to ImageNet, rather than refused
    draft    whether large JPEGs are decoded at a fraction of their size: faster, but not quite ADM's pixels
    workers  threads that decode; None: the cores there are, shared with the other processes of this machine
    """

    known_range = True  # 0 is black

    def __init__(
        self,
        files: Files,
        size: int,
        *,
        errors: Errors | None = None,
        upscale: bool = False,
        flip: bool = True,
        draft: bool = False,
        workers: int | None = None,
    ):
        errors = errors or files.errors
        if errors not in ("skip", "raise", "defer", "replace"):
            raise ValueError(f"errors is {errors!r}; choose 'skip', 'raise', 'defer' or 'replace'")
        side, threads = whole_number(size), cores() if workers is None else whole_number(workers)
        if side is None or side < 1:
            raise ValueError(f"size is {size!r}; ask for 1 pixel or more, a whole number")
        if threads is None or threads < 1:
            raise ValueError(f"workers is {workers!r}; ask for 1 thread or more, a whole number")
        self.source, self.size, self.errors, self.upscale = files, side, errors, upscale
        self.flip, self.draft, self.workers = flip, draft, threads
        self.classes, self.labels, self.windows = files.classes, files.labels, files.windows
        self.broken: tuple[Broken, ...] = ()
        self.replaced: dict[int, Broken] = {}  # by index
        self._kept: Tensor | None = None  # numbers of the files that are not broken; None: all
        self._lock = Lock()
        if errors in ("skip", "raise"):
            self._check()

    @property
    def side(self) -> int:
        """The shorter side of the first image in pixels."""
        return min(decoding.read(BytesIO(self.source.read(self._number(0)))).size)

    def name(self, index: int) -> str:
        """The file of an image, as errors call it."""
        return self.source.name(self._number(index))

    def images(self, indices: Indices) -> Images:
        crop = partial(decoding.center_crop, size=self.size)
        return self._batch(lambda index: self._view(index, crop), whole_numbers(indices, "indices").tolist())

    def training_images(self, indices: Indices, draws: Draws) -> Images:
        def view(index_and_draw: tuple[int, list[float]]) -> decoding.Square:
            """The random crop of an image, mirrored or not, by its own random numbers."""
            index, (*crop, mirror) = index_and_draw
            square = self._view(index, lambda image: decoding.random_crop(image, self.size, crop))
            return square[:, ::-1] if self.flip and mirror < 0.5 else square

        return self._batch(view, list(zip(indices.tolist(), draws.tolist(), strict=True)))

    def five_crops(self, indices: Indices, zoom: float) -> Float[Tensor, "b 5 3 h w"]:
        """The corners and the middle of ADM's center crop to `zoom` times the size.

        Raises ValueError for images smaller than that crop, unless they may be enlarged.
        """
        crop, side = partial(decoding.five_crops, size=self.size, zoom=zoom), int(self.size * zoom)
        found = self._map(lambda index: self._view(index, crop, side), indices.tolist())
        squares = [square for crops in found for square in crops]
        return self._batch(lambda square: square, squares).unflatten(0, (-1, 5))

    def describe(self) -> dict[str, Any]:
        """The entries that scores and caches record.

        The hash is of names and byte counts, for contents take hours; of files without compression, whose byte counts
        are alike, also of some of their bytes.
        """
        about = self.source.describe()
        if self._kept is not None:
            about |= {"count": len(self), "hash": short_hash(about["hash"].encode(), self._kept.numpy().tobytes())}
        reduced = ", JPEG decoded at a fraction of its size" if self.draft else ""
        return {"name": about.pop("name"), "view": f"ADM center crop to {self.size}{reduced}", **about}

    def _number(self, index: int) -> int:
        """The number of an image's file, the broken ones counted."""
        return index if self._kept is None else int(self._kept[index])

    def _map(self, function: Callable[[Any], T], items: Sequence[Any]) -> Iterable[T]:
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(function, items))

    def _batch(self, view: Callable[[Any], decoding.Square], items: Sequence[Any]) -> Images:
        """The views of items, each made and written into its row by a thread."""
        batch = torch.empty(len(items), 3, self.size, self.size)
        rows = batch.numpy()
        self._map(lambda row: decoding.to_floats(view(items[row]), rows[row]), range(len(items)))
        return batch

    def _view(self, index: int, crop: Callable[[Image.Image], T], side: int | None = None) -> T:
        """Apply `crop`, which needs `side` pixels, to an image or to the one that stands in for it."""
        side = side or self.size
        if self.errors != "replace":
            return crop(self._read(index, side))
        for candidate in self._stand_ins(index):
            if candidate in self.replaced:
                continue
            try:
                return crop(self._read(candidate, side))
            except BrokenFileError as error:
                self._note(candidate, error)
        name = self.classes[int(self.labels[index])]
        raise ValueError(f"no image of class {name} in {self.source.place} can be read; repair some, or remove it")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """An image, then those of its class that come after it, around to the first."""
        yield index
        same = (self.labels == self.labels[index]).nonzero().flatten()
        yield from torch.cat([same[same > index], same[same < index]]).tolist()

    def _note(self, index: int, error: "BrokenFileError") -> None:
        with self._lock:
            first = not self.replaced
            self.replaced[index] = error.broken
        if first:
            warnings.warn(f"{error.what}; the next image of its class replaces it, as for others to come", stacklevel=2)

    def _decoded(self, number: int, decode: Callable[[BytesIO], T]) -> T:
        """A file as `decode` gives it. Raises what a damaged shard or table raises."""
        data = self.source.read(number)
        try:
            return decode(BytesIO(data))
        except Exception as error:  # strangers' files make Pillow raise nearly anything
            raise BrokenFileError(self.source.name(number), self.source.place, reason(error)) from error

    def _read(self, index: int, side: int) -> Image.Image:
        image = self._decoded(self._number(index), partial(decoding.read, enough=side if self.draft else None))
        if not self.upscale and min(image.size) < side:
            raise ValueError(self._too_small([(self.name(index), image.size)], side))
        return image

    def _check(self) -> None:
        """Decode every file once and keep those that can be. ValueError: some are smaller than the crop."""
        broken, small, kept, count = [], [], [], len(self.source)
        for start in range(0, count, CHECKED_AT_ONCE):
            for number, outcome in self._map(self._outcome, range(start, min(start + CHECKED_AT_ONCE, count))):
                if isinstance(outcome, Broken):
                    broken.append(outcome)
                    continue
                kept.append(number)
                if min(outcome) < self.size and not self.upscale:
                    small.append((self.source.name(number), outcome))
        if small:
            raise ValueError(self._too_small(small, self.size))
        if broken:
            names = some([f"{name} ({why})" for name, why in broken])
            what = f"{len(broken)} of {count} images in {self.source.place} cannot be read: {names}"
            if self.errors == "raise":
                raise ValueError(f"{what}; repair or remove them, or pass errors='skip'")
            warnings.warn(f"{what}; they are skipped", stacklevel=4)
            self.broken, self._kept = tuple(broken), torch.tensor(kept, dtype=torch.int64)
            self.windows = self.source.windows and self.source.windows.of(self._kept)
            self.labels = self.source.labels[self._kept]
            check_none_lost(self.source.labels, self.labels, self.classes, self.source.place)

    def _outcome(self, number: int) -> tuple[int, Broken | tuple[int, int]]:
        """Number, and width and height of a file, or why it cannot be decoded."""
        try:
            return number, self._decoded(number, decoding.check)
        except BrokenFileError as error:
            return number, error.broken

    def _too_small(self, files: list[tuple[str, tuple[int, int]]], side: int) -> str:
        names = some([f"{name} ({width} x {height})" for name, (width, height) in files])
        return (
            f"{len(files)} images in {self.source.place} are smaller than the crop of {side} pixels: {names}; "
            f"remove them, choose a smaller size, or pass upscale=True to enlarge them"
        )


class BrokenFileError(ValueError):
    """A file that could not be decoded, and what to do."""

    def __init__(self, name: str, place: str, reason: str):
        self.broken, self.what = Broken(name, reason), f"{name} in {place} cannot be read ({reason})"
        super().__init__(f"{self.what}; repair or remove it, or pass errors='skip' or 'replace'")
