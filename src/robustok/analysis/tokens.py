"""The whole analysis of a tokenizer with its generator, and of the tokenizer after post-training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustok.analysis.code_usage import CodeUsage, code_usage
from robustok.analysis.departures import Departures, departures
from robustok.analysis.image_sets import LabeledImages, Progress, check_models, encode, two_sets
from robustok.analysis.imitation import Imitation, imitate
from robustok.analysis.prediction import Forced, free_running, teacher_forcing
from robustok.analysis.projection import principal_plane
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import FeatureSpace, extractor
from robustok.evaluation.metrics.pfid import Cell, grid
from robustok.evaluation.scores.effects import Change, Effect, ImageStatistics, compare, image_statistics
from robustok.generators.protocol import GeneratorLike, is_masked
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.layers import check_float32, evaluating
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Pixels, Tokens, to_pixels
from robustok.tokenizer.perturbation import neighbors, perturb
from robustok.tokenizer.protocol import TokenizerLike, books_of, codebook_of

SHOWN = 300  # points of each set in the plane
EXAMPLES = 12  # images of each set


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Why this generator's images differ from this tokenizer's reconstructions."""

    protocol: dict[str, Any]
    forced: Forced  # given the real tokens before each one
    free: tuple[Departures, ...]  # given a label and some real tokens, the fewest first
    other_real: Departures  # other real images of the same classes, for comparison
    code_usage: dict[str, CodeUsage]  # of generated images; of other real ones, the floor; of the real ones
    imitation: Imitation
    plane: dict[str, Any]  # fraction of the variance, and points: name -> ((x, y), ...)
    effects: tuple[Effect, ...]
    changes: tuple[Change, ...]  # empty without a tuned decoder

    @property
    def departures(self) -> dict[str, Departures]:
        """By how tokens were drawn, the closest to real images first."""
        return {
            "Teacher forcing": self.forced.sampled,
            "Teacher forcing, likeliest": self.forced.likeliest,
            **{
                f"After {free.first} real tokens" if free.first else "From the label alone": free
                for free in self.free[::-1]
            },
            "Another real image of the class": self.other_real,
        }


class Result(NamedTuple):
    """The numbers, and some images of every set, the same ones from set to set."""

    analysis: Analysis
    examples: dict[str, Pixels]


@torch.no_grad()
def analyze(
    tokenizer: TokenizerLike,
    generator: GeneratorLike,
    images: LabeledImages,
    *,
    tuned: TokenizerLike | None = None,
    sampling: Sampling | None = None,
    count: int = 1000,
    features: FeatureSpace = "lite0",
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress = lambda what, done, total: None,
) -> Result:
    """`count` real images, what becomes of them and of their classes, beside `count` other real images.

    All numbers have a floor: what the first images are to the others. The two sets have the same classes, as far as
    the images go. `tuned` is the tokenizer with another decoder. Raises ValueError for parts that do not fit together.
    """
    sampling = sampling or (MaskedSampling() if is_masked(generator) else Sampling())
    check_models(generator, tokenizer, sampling, images)
    codebook = _check(tokenizer, generator, tuned)
    k = len(codebook)
    chosen, others = two_sets(images.labels, count)
    progress("encoding", 0, 1)
    own, real = (encode(tokenizer, images, indices, batch_size) for indices in (chosen, others))
    progress("encoding", 1, 1)

    def how(phase: str) -> dict[str, Any]:
        return {"seed": seed, "progress": partial(progress, phase)}

    n, given = own.shape[1], (generator, own, images.labels[chosen], codebook, sampling)
    with evaluating(tokenizer), evaluating(generator):
        forced, drawn = teacher_forcing(*given, **how("teacher forcing"))
        prefixes = tuple(sorted({0, n // 4, n // 2, 3 * n // 4}))
        free, generated = free_running(*given, prefixes, batch_size=batch_size, **how("free running"))
        targets = {"generated": generated, "teacher forcing": drawn}
        imitation = imitate(own, real, targets, codebook, tokenizer.lookup, **how("imitation"))
    cells = {
        "perturbed": sorted(grid(k))[len(grid(k)) // 2],
        "perturbed as departing": Cell(forced.sampled.alpha, min(forced.sampled.delta or 1, k - 1)),
    }
    near = neighbors(codebook, max(cell.delta for cell in cells.values())).cpu()
    perturbed = {  # by the random numbers of the grid
        name: perturb(own, near[:, : cell.delta], cell.alpha, 1.0, generator=stream(seed, "imitation"))
        for name, cell in cells.items()
    }
    sets = {"reconstructed": own, **perturbed, "generated": generated}
    extract = extractor(features, codebook.device)
    decoders = {"original": tokenizer} if tuned is None else {"original": tokenizer, "tuned": tuned}
    statistics, examples = _decoded(decoders, images, (chosen, others), sets, extract, batch_size, progress)
    effects, changes = compare(statistics.pop(("other", "")), statistics.pop(("real", "")), statistics)
    return Result(
        Analysis(
            protocol={
                "images": images.describe(),
                "count": len(chosen),
                "sampling": to_plain(sampling),
                "seed": seed,
                "generator": generator.fingerprint(),
                "codebook_size": k,
                "tokens_per_image": n,
                **cells,
                **extract.describe(),
            },
            forced=forced,
            free=free,
            other_real=departures(real, own, codebook),
            code_usage=code_usage({"generated": generated, "other real images": own, "real images": real}, real, k),
            imitation=imitation,
            plane=_plane(tokenizer, {"real": real, "perturbed": perturbed["perturbed"], "generated": generated}),
            effects=effects,
            changes=changes,
        ),
        examples,
    )


def _decoded(
    decoders: dict[str, TokenizerLike],
    images: LabeledImages,
    indices: tuple[Tensor, Tensor],
    sets: dict[str, Tokens],
    extract: Extractor,
    batch_size: int,
    progress: Progress,
) -> tuple[dict[tuple[str, str], ImageStatistics], dict[str, Tensor]]:
    """Real images, and every set of tokens decoded by every decoder: their statistics, and some images of each."""
    chosen, others = indices
    shown = torch.arange(EXAMPLES) * len(chosen) // EXAMPLES

    def photos(of: Tensor) -> Callable[[Tensor], Iterable[Pixels]]:
        return lambda some: (to_pixels(images.images(part)) for part in of[some].split(batch_size))

    def made(model: TokenizerLike, tokens: Tokens) -> Callable[[Tensor], Iterable[Pixels]]:
        return lambda some: decoded(model, tokens[some], batch_size)

    pixels = {("other", ""): photos(others), ("real", ""): photos(chosen)}
    pixels |= {(name, by): made(model, tokens) for name, tokens in sets.items() for by, model in decoders.items()}
    statistics, examples = {}, {}
    for number, ((name, decoder), of) in enumerate(pixels.items()):
        progress("images", number * len(chosen), len(pixels) * len(chosen))
        statistics[name, decoder] = image_statistics(of(torch.arange(len(chosen))), extract)
        if name != "other":
            examples[name if decoder in ("", "original") else f"{name}, {decoder}"] = torch.cat(list(of(shown)))
    progress("images", len(pixels) * len(chosen), len(pixels) * len(chosen))
    return statistics, examples


def _plane(tokenizer: TokenizerLike, sets: dict[str, Tokens]) -> dict[str, Any]:
    """Sets of tokens in the plane in which the latents of real images vary most."""
    device = tokenizer.device
    plane = principal_plane(tokenizer.lookup(sets["real"].to(device)).float().cpu())

    def points(tokens: Tokens) -> list[tuple[float, ...]]:
        some = tokens[torch.arange(min(SHOWN, len(tokens))) * len(tokens) // min(SHOWN, len(tokens))]
        return [tuple(point) for point in plane.project(tokenizer.lookup(some.to(device)).float().cpu()).tolist()]

    return {"fraction": plane.fraction, "points": {name: points(tokens) for name, tokens in sets.items()}}


def _check(tokenizer: TokenizerLike, generator: GeneratorLike, tuned: TokenizerLike | None) -> Codebook:
    """The codebook of all parts. Raises ValueError for parts that were not made for each other."""
    for model in (tokenizer, generator, tuned):
        check_float32(model)
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "a generator of tokens fits no other"
    if books_of(tokenizer) > 1:
        raise ValueError(
            "this tokenizer has a codebook for each level, and ranks and distances are those of codes in one; analyze "
            "one whose levels share theirs (--tokenizer.quantizer.shared true), or take robustok evaluate"
        )
    other = codebook if tuned is None else codebook_of(tuned)
    if other is None or not torch.equal(other.cpu(), codebook.cpu()):
        raise ValueError(
            "the tuned tokenizer has another codebook, so it cannot decode the same tokens; "
            "give what post-train made of this very tokenizer"
        )
    return codebook
