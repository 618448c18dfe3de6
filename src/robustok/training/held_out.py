"""What decides which decoder is kept: held-out images, beside what decoders make of freely sampled tokens or latents.

One space decides. Others bear witness: a decoder that is nearer in the one and farther in another has learned the
first network's taste, not to make better images. And of decoders that are all as good, one comes out best by chance:
what other images could undo is no reason to give up the original.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, reduce
from itertools import chain
from operator import add, itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustok.evaluation.features.extractor import Extractor, outputs
from robustok.evaluation.metrics.fid import FeatureStats, check_one_space, frechet_distance
from robustok.evaluation.scores.difference import paired_difference
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted
from robustok.evaluation.scores.intervals import NORMAL_95
from robustok.evaluation.scores.reference import Reference
from robustok.layers import evaluating
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.distributed import from_main, gather_objects, rank, world_size
from robustok.runtime.seeding import spread
from robustok.shapes import Images, Pixels, to_pixels
from robustok.tokenizer.protocol import TokenizerLike, codes_of, decoding_with

SURE = 3  # standard errors by which a decoder must be nearer than the original, to be kept
BATCH = 250  # images that are decoded at once


class Witness(NamedTuple):
    """Another feature space, with the held-out images in it."""

    extract: Extractor
    reference: Reference


class HeldOut:
    """How far a decoder's images of freely sampled tokens or latents are from images that no decoder was trained on."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        generated: Tensor,
        reference: Reference | FeatureStats,
        extract: Extractor,
        witnesses: Sequence[Witness] = (),
    ):
        """`reference`: of the held-out images; statistics alone cannot tell chance, see `by_chance`."""
        self.real = reference if isinstance(reference, Reference) else None
        self.reference = reference.stats if isinstance(reference, Reference) else reference
        self.tokenizer, self.generated, self.extract = tokenizer, generated, extract
        self.witnesses = witnesses
        self._known: dict[str, float] = {}  # distances by decoder and weights: tries, run and control begin alike

    def of_some(self, count: int) -> "HeldOut":
        """The same by so many samples, of all classes: for less time, with more noise, without witnesses."""
        return HeldOut(self.tokenizer, self.generated[self._some(count)], self.reference, self.extract)

    def with_(self, *, tokenizer: TokenizerLike | None = None, witnesses: Sequence[Witness] | None = None) -> "HeldOut":
        """The same of another tokenizer with the same latents, or with other witnesses."""
        tokenizer = self.tokenizer if tokenizer is None else tokenizer
        witnesses = self.witnesses if witnesses is None else witnesses
        return HeldOut(tokenizer, self.generated, self.real or self.reference, self.extract, witnesses)

    def _some(self, count: int) -> Tensor:
        """Numbers of so many samples, as if drawn: they may come class by class, as a folder's images do."""
        return spread(count, len(self.generated))

    @torch.no_grad()
    def __call__(self, decoder: nn.Module) -> float:
        """The Frechet distance of the decoded images to the reference; infinite for a decoder that has collapsed.

        Several processes share the images.
        """
        which = f"{decoder} {fingerprint(decoder.state_dict())}"
        known = from_main(lambda: self._known.get(which))
        return self._known.setdefault(which, self._distance(decoder) if known is None else known)

    def _distance(self, decoder: nn.Module) -> float:
        own = [
            (number, FeatureStats.of(outputs(self.extract, pixels).features))
            for number, pixels in self._decoded(decoder)
        ]
        parts = [stats for _, stats in sorted(chain(*gather_objects(own)), key=itemgetter(0))]

        def distance() -> float:
            for part in parts:
                check_one_space(self.reference, part)
            try:
                return frechet_distance(reduce(add, parts), self.reference)
            except ValueError:  # all images alike, or features that are not finite
                return math.inf

        return from_main(distance)

    def _decoded(self, decoder: nn.Module) -> Iterator[tuple[int, Pixels]]:
        """This process's batches of the samples as a decoder makes them, each with its number."""
        for number, generated in list(enumerate(self.generated.split(BATCH)))[rank() :: world_size()]:
            with evaluating(self.tokenizer), decoding_with(self.tokenizer, decoder):
                pixels = to_pixels(self.tokenizer.decode(codes_of(self.tokenizer, generated)))
            yield number, pixels

    @torch.no_grad()
    def worse_in(self, decoder: nn.Module) -> dict[str, str]:
        """By name the other spaces in which a decoder is worse than the original beyond the noise, and by how much.

        The same samples are decoded with both and compared image by image, see `paired_difference`.
        """
        worse: dict[str, str] = {}
        if not self.witnesses:
            return worse
        before = self._original[: len(self.witnesses)]
        after = self._streams([witness.extract for witness in self.witnesses], decoder)
        for witness, one, other in zip(self.witnesses, before, after, strict=True):

            def words(witness: Witness = witness, one: FeatureStream = one, other: FeatureStream = other) -> str:
                change = paired_difference(one, other, witness.reference)
                return change.in_words() if change.value > 0 and not change.within_noise else ""

            if found := from_main(words):
                worse[witness.extract.name] = found
        return worse

    @torch.no_grad()
    def by_chance(self, decoder: nn.Module) -> str:
        """How much nearer a decoder is than the original, in words, where other images could undo it; else nothing.

        Generated images and held-out ones could have been others, for these were looked at to choose the decoder, and
        more than once: hence `SURE`.
        """
        if (real := self.real) is None:
            return ""
        before, (after,) = self._original[-1], self._streams([self.extract], decoder)

        def words() -> str:
            change = paired_difference(before, after, real, other_real=True)
            errors = -change.value / ((change.interval[1] - change.value) / NORMAL_95 or math.inf)
            if errors > SURE:
                return ""
            return f"{change.before:.4g} to {change.after:.4g} are {errors:.1f} standard errors, not {SURE} or more"

        return from_main(words)

    @cached_property
    def _original(self) -> list[FeatureStream]:
        """What the original decoder makes, in the witnesses' spaces and last in the deciding one, where that is asked.

        Decoded once for every decoder that is compared with it.
        """
        deciding = [] if self.real is None else [self.extract]
        return self._streams([*(witness.extract for witness in self.witnesses), *deciding], self.tokenizer.decoder)

    def _streams(self, spaces: Sequence[Extractor], decoder: nn.Module) -> list[FeatureStream]:
        """The features of a decoder's images in some spaces; on the main process those of all processes."""
        streams = [FeatureStream(space.describe()) for space in spaces]
        for number, pixels in self._decoded(decoder):
            for space, stream in zip(spaces, streams, strict=True):
                stream.add(extracted(space, pixels), torch.arange(len(pixels)) + BATCH * number)
        return [stream.gather() for stream in streams]

    @torch.no_grad()
    def picture(self, decoder: nn.Module, count: int = 8) -> Images:
        """Images of some samples as the original decoder makes them, above those that `decoder` makes."""
        codes = codes_of(self.tokenizer, self.generated[self._some(count)])
        with evaluating(self.tokenizer):
            before = self.tokenizer.decode(codes)
            with decoding_with(self.tokenizer, decoder):
                return torch.cat([before, self.tokenizer.decode(codes)]).clamp(-1, 1)
