"""All scores of a tokenizer, from one pass over the images; without a codebook two more, which only encode them.

Several processes (`robustok.runtime.distributed.processes`) share the images; all of them get the scores, which are
those of one process. Statistics are merged exactly, random draws go by an image's position, and a network sees batches
of one size. So nothing depends on how the work was split, and of `batch_size` no more than the rounding of the
tokenizer's own float32.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.evaluation.decoding import decoded, encoded, precision
from robustok.evaluation.features.image_source import ImageSource, Progress, check_range, images_at, pixels_of
from robustok.evaluation.features.registry import FeatureSpaces, extractors
from robustok.evaluation.metrics.ifid import HELD, WEIGHT, Nearest
from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, NoiseCell, noised_by_cells
from robustok.evaluation.metrics.pfid import BLOCK, CELLS, Cell, grid, perturbed_by_cells
from robustok.evaluation.scores.accumulators import (
    Accumulator,
    CodeAccumulator,
    FeatureAccumulator,
    PairDistance,
    PixelAccumulator,
)
from robustok.evaluation.scores.score import Score
from robustok.runtime.distributed import from_main, gather_objects, rank, world_size
from robustok.runtime.seeding import spread
from robustok.runtime.words import counted
from robustok.shapes import Codebook, Images, Latents, Pixels
from robustok.tokenizer.perturbation import neighbors
from robustok.tokenizer.protocol import TokenizerLike, books_of, check_table_of_codes, codebook_of

ALONE = "one image has no Frechet distance, so rFID, pFID and iFID are left out; give two or more to have them"


@torch.no_grad()
def score_tokenizer(
    tokenizer: TokenizerLike,
    images: ImageSource,
    features: FeatureSpaces = "lite0",
    *,
    pfid_images: int | None = None,
    neighbors_in: ImageSource | None = None,
    lpips: PairDistance | None = None,
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> list[Score]:
    """rFID, pFID and its 15 cells, PSNR, SSIM; with a codebook its use, perplexity and dead codes, without one iFID.

    The distances are in every feature space given. LPIPS comes with a function for it, of images and reconstructions
    in [-1, 1]. pFID and iFID are of `pfid_images` images spread over the set (None: all), against these images; so is
    `rfid_pfid_images`, the rFID to compare them with, since distances of fewer images are larger. pFID replaces codes
    by near ones and, where there are no codes, adds noise to latents. iFID finds neighbors among the same images, or
    in another set, such as the training set (the paper's choice), all of which every process encodes. `progress` is
    told how many images have been looked at, of all real, reconstructed and perturbed ones.
    """
    if len(images) != 1:
        check_range(images)
    codebook = codebook_of(tokenizer)
    discrete = codebook is not None
    if discrete:
        check_table_of_codes(codebook)
    if neighbors_in is not None:
        if discrete:
            raise ValueError("iFID is of latents, and this tokenizer makes codes; leave neighbors_in out")
        if neighbors_in.describe() == images.describe():
            raise ValueError("neighbors_in are the very images, each its own neighbor; leave it out")
        check_range(neighbors_in)
    run = _Run(tokenizer, images, pfid_images, batch_size, progress)
    spaces = extractors(features, tokenizer.device)
    if not run.for_pfid:
        spaces = []
        from_main(lambda: warnings.warn(ALONE, stacklevel=2))
    run.expect(sum((2 + CELLS * block.in_pfid) * len(block.indices) for block in run.own))
    if not discrete:
        run.expect(3 * sum(len(block.positions) for block in run.own) + run.searched(neighbors_in))
    if not spaces:
        noise = _Noise((), lambda tokens, block: iter(()), {})
    elif codebook is not None:
        noise = _codes_replaced(codebook, books_of(tokenizer), seed)
    else:
        noise = _noise_added(run, seed)
    among = run.for_pfid if neighbors_in is None else neighbors_in.describe()
    ifid = {"neighbors_among": among, "neighbor_weight": WEIGHT}
    seen = [FeatureAccumulator(extract, noise.cells, noise.protocol, ifid, seed) for extract in spaces]
    of_pixels, of_codes = PixelAccumulator(lpips), None if codebook is None else CodeAccumulator(len(codebook))

    def add(output: Pixels, positions: Mapping[Any, Tensor]) -> None:
        for space in seen:
            space.add(output, positions)
        run.tell(len(output))

    for block in run.own:
        batch, indices, positions = images_at(images, block.indices), block.indices, block.positions
        pixels, tokens = pixels_of(batch), run.encoded(batch)
        output = run.decoded(tokens)
        of_pixels.add(pixels, output, indices)
        if of_codes:
            of_codes.add(tokens)
        add(pixels, {"real": indices, "real of pFID": positions})
        add(output, {"reconstructed": indices, "reconstructed of pFID": positions})
        for number, (_, disturbed) in enumerate(noise.of(tokens, block.number) if block.in_pfid else ()):
            add(run.decoded(disturbed), {number: positions})
    for output, positions in _between(run, neighbors_in) if not discrete else ():
        add(output, {"between": positions})
    parts: list[Accumulator] = [*seen, of_pixels, *([of_codes] if of_codes else [])]
    for part in parts:
        part.gather()
    about = {"reference": images.describe(), "precision": precision(tokenizer)}
    return from_main(lambda: [score for part in parts for score in part.scores(about)])


class _Block(NamedTuple):
    """Images that are looked at together, whatever the batch size."""

    number: int  # among the blocks of its kind: the random numbers of pFID depend on it
    indices: Tensor  # of the images
    positions: Tensor  # theirs among the images of pFID; none of other images

    @property
    def in_pfid(self) -> bool:
        return len(self.positions) > 0


class _Run:
    """A tokenizer, the images it is scored on, and how many of them have been looked at."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        images: ImageSource,
        pfid_images: int | None,
        batch_size: int,
        progress: Progress | None,
    ):
        self.tokenizer, self.images, self.batch_size, self.progress = tokenizer, images, batch_size, progress
        self.for_pfid = _images_of_pfid(len(images), pfid_images)
        self.blocks = list(_blocks(len(images), self.for_pfid))
        self.own = self.blocks[rank() :: world_size()]
        self.done = self.total = 0

    def encoded(self, images: Images) -> Tensor:
        """Tokens, or latents where there are none."""
        return encoded(self.tokenizer, images, self.batch_size)

    def latents(self, block: _Block) -> Latents:
        return self.encoded(images_at(self.images, block.indices))

    def decoded(self, tokens: Tensor) -> Pixels:
        return torch.cat(list(decoded(self.tokenizer, tokens, self.batch_size)))

    def searched(self, other: ImageSource | None) -> int:
        """Among how many images iFID finds neighbors: those of pFID or another set."""
        return self.for_pfid if other is None else len(other)

    def expect(self, images: int) -> None:
        self.total += images

    def tell(self, images: int) -> None:
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)


class _Noise(NamedTuple):
    """Noise that pFID puts into a tokenizer's tokens."""

    cells: Sequence[Cell | NoiseCell]
    of: Callable[[Tensor, int], Iterator[tuple[Any, Tensor]]]  # tokens or latents, their block -> these in each cell
    protocol: dict[str, Any]


def _codes_replaced(codebook: Codebook, books: int, seed: int) -> _Noise:
    """pFID as published; of several codebooks, in each."""
    cells = grid(len(codebook) // books)
    near = neighbors(codebook, max(cell.delta for cell in cells), books).cpu()  # where `encoded` leaves tokens
    return _Noise(cells, lambda tokens, block: perturbed_by_cells(tokens, near, cells, seed=seed, block=block), {})


def _noise_added(run: _Run, seed: int) -> _Noise:
    """pFID without a codebook; the scale of its noise is that of the latents of all images of pFID."""
    found: dict[int, ChannelStats] = {}
    for block in (block for block in run.own if block.in_pfid):
        found[block.number] = ChannelStats.of(run.latents(block))
        run.tell(len(block.indices))
    everywhere = gather_objects(found)

    def total() -> ChannelStats:
        by_block = {number: stats for part in everywhere for number, stats in part.items()}
        return ChannelStats.total(by_block[number] for number in sorted(by_block))  # in one order, whoever saw them

    channels = from_main(total)
    about = {"kind": "latent noise"}
    return _Noise(NOISE_GRID, lambda latents, block: noised_by_cells(latents, channels, seed=seed, block=block), about)


def _between(run: _Run, other: ImageSource | None) -> Iterator[tuple[Pixels, Int[Tensor, " b"]]]:
    """Images decoded from between each image of pFID and its nearest neighbor, block by block, and their positions.

    As many latents as memory allows look for their neighbors at once, while those of all images come by.
    """
    waiting = [block for block in run.own if block.in_pfid]
    while waiting:
        blocks: list[_Block] = []
        latents: list[Latents] = []
        while waiting and sum(part.nbytes for part in latents) < HELD:
            blocks.append(waiting.pop(0))
            latents.append(run.latents(blocks[-1]))
            run.tell(len(latents[-1]))
        nearest = Nearest(torch.cat(latents).to(run.tokenizer.device), torch.cat([block.positions for block in blocks]))
        for others, positions in _shown(run, other):
            nearest.show(others, positions)
            run.tell(len(others))
        for block, part in zip(
            blocks, nearest.midpoints().split([len(block.positions) for block in blocks]), strict=True
        ):
            yield run.decoded(part), block.positions
        run.expect(run.searched(other) if waiting else 0)


def _shown(run: _Run, other: ImageSource | None) -> Iterator[tuple[Latents, Int[Tensor, " b"] | None]]:
    """The latents that may be neighbors, with their positions among the images of pFID if these are the ones."""
    if other is None:
        for block in (block for block in run.blocks if block.in_pfid):
            yield run.latents(block), block.positions
    else:
        for indices in torch.arange(len(other)).split(BLOCK):
            yield run.encoded(images_at(other, indices)), None


def _blocks(count: int, for_pfid: int) -> Iterator[_Block]:
    """All images; first the `for_pfid` that are perturbed, spread over the whole, since folders are sorted."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[spread(for_pfid, count)] = True
    for in_pfid in (True, False):
        indices = torch.arange(count)[chosen == in_pfid]
        for number, positions in enumerate(torch.arange(len(indices)).split(BLOCK) if len(indices) else ()):
            yield _Block(number, indices[positions], positions if in_pfid else positions[:0])


def _images_of_pfid(count: int, wanted: int | None) -> int:
    """Number of images that are perturbed: of a single image none. Raises ValueError for fewer than two of several."""
    if count == 1:
        return 0
    for_pfid = count if wanted is None else min(wanted, count)
    if for_pfid < 2:
        some = counted(for_pfid, "image")
        raise ValueError(f"pFID cannot be had from {some}; take at least two, better some thousands")
    return for_pfid
