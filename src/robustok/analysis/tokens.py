"""The whole analysis of a tokenizer with its generator, and of the tokenizer after post-training."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from robustok.analysis.code_usage import CodeUsage, code_usage
from robustok.analysis.departures import Departures, departures
from robustok.analysis.effects import Change, Effect, Effects, Look, look
from robustok.analysis.imitation import Imitation, imitate
from robustok.analysis.prediction import Forced, free_running, teacher_forcing
from robustok.analysis.projection import principal_plane
from robustok.evaluation.decoding import decoded, encoded, evaluating
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import FeatureSpace, extractor
from robustok.evaluation.metrics.pfid import Cell, grid
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import Sampling
from robustok.layers import check_float32
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import spread, stream
from robustok.shapes import Codebook, Images, Labels, Neighbours, Pixels, Tokens, to_pixels
from robustok.tokenizer.perturbation import neighbours, perturb
from robustok.tokenizer.protocol import TokenizerLike, codebook_of

SHOWN = 300  # points of each set in the plane
EXAMPLES = 12  # images of each set

Progress = Callable[[str, int, int], None]  # told what is being done, how much of it, and of how much


@runtime_checkable
class LabelledImages(Protocol):
    """Real images with their classes."""

    labels: Tensor  # (len,) int64

    def __len__(self) -> int: ...
    def images(self, indices: Int[Tensor, " b"]) -> Images: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Why this generator's images differ from this tokenizer's reconstructions."""

    protocol: dict[str, Any]
    forced: Forced  # given the real tokens before each one
    free: tuple[Departures, ...]  # given a label and some real tokens, the fewest first
    other_real: Departures  # other real images of the same classes, for comparison
    code_usage: CodeUsage
    imitation: Imitation
    plane: dict[str, Any]  # fraction of the variance, and points: name -> ((x, y), ...)
    effects: tuple[Effect, ...]
    changes: tuple[Change, ...]  # empty without a tuned decoder

    def to_plain(self) -> dict[str, Any]:
        """As JSON values, the contents of `analysis.json`."""
        return asdict(self)


class Result(NamedTuple):
    """The numbers, and some images of every set, the same ones from set to set."""

    analysis: Analysis
    examples: dict[str, Pixels]


@torch.no_grad()
def analyze(
    tokenizer: TokenizerLike,
    generator: GeneratorLike,
    images: LabelledImages,
    *,
    tuned: TokenizerLike | None = None,
    sampling: Sampling | None = None,
    count: int = 1000,
    features: FeatureSpace = "lite0",
    seed: int = 0,
    batch_size: int = 125,
    progress: Progress | None = None,
) -> Result:
    """`count` real images, what becomes of them and of their classes, beside `count` other real images.

    All numbers have a floor: what the first images are to the others. The two sets have the same classes, as far as
    the images go. `tuned` is the tokenizer with another decoder. Raises ValueError for parts that do not fit together.
    """
    sampling = sampling or Sampling()
    codebook = _check(tokenizer, generator, sampling, tuned)
    k = len(codebook)
    if (images.labels != generator.no_label).any():  # else they are of no class, and images of none are asked for
        check_classes(generator, images.labels, getattr(images, "classes", None))
    tell = progress or (lambda what, done, total: None)
    chosen, others = two_sets(images.labels, count)
    labels = images.labels[chosen]

    def how(phase: str) -> dict[str, Any]:
        return {"seed": seed, "progress": lambda done, total: tell(phase, done, total)}

    tell("encoding", 0, 2)
    own = encode(tokenizer, images, chosen, batch_size)
    tell("encoding", 1, 2)
    real = encode(tokenizer, images, others, batch_size)
    tell("encoding", 2, 2)
    n, given = own.shape[1], (generator, own, labels, codebook, sampling)
    with evaluating(tokenizer), evaluating(generator):
        forced, drawn = teacher_forcing(*given, **how("teacher forcing"))
        prefixes = tuple(sorted({0, n // 4, n // 2, 3 * n // 4}))
        free, generated = free_running(*given, prefixes, batch_size=batch_size, **how("free running"))
        targets = {"generated": generated, "forced": drawn}
        imitation = imitate(own, real, targets, codebook, tokenizer.lookup, **how("imitation"))
    middle = sorted(grid(k))[len(grid(k)) // 2]
    departing = Cell(forced.sampled.alpha, min(forced.sampled.delta or 1, k - 1))
    near = neighbours(codebook, max(middle.delta, departing.delta)).cpu()
    sets = {
        "reconstructed": own,
        "perturbed": _perturbed(own, near, middle, seed),
        "perturbed as departing": _perturbed(own, near, departing, seed),
        "generated": generated,
    }
    extract = extractor(features, codebook.device)
    decoders = {"original": tokenizer} if tuned is None else {"original": tokenizer, "tuned": tuned}
    effects, examples = _effects(
        decoders, images, (chosen, others), sets, extract, batch_size, how("images")["progress"]
    )
    analysis = Analysis(
        protocol={
            "images": images.describe(),
            "count": len(chosen),
            "sampling": to_plain(sampling),
            "seed": seed,
            "generator": generator.fingerprint(),
            "codebook_size": k,
            "tokens_per_image": n,
            "perturbed": middle,
            "perturbed as departing": departing,
            **extract.describe(),
        },
        forced=forced,
        free=tuple(free),
        other_real=departures(real, own, codebook),
        code_usage=code_usage(generated=generated, real=real, other=own, codebook_size=k),
        imitation=imitation,
        plane=_plane(tokenizer, {"real": real, "perturbed": sets["perturbed"], "generated": generated}),
        effects=tuple(effects.found),
        changes=tuple(effects.changes()),
    )
    return Result(analysis, examples)


def two_sets(labels: Labels, count: int) -> tuple[Int[Tensor, " count"], Int[Tensor, " count"]]:
    """Indices of twice `count` images spread over the set, dealt out class by class; less if it is smaller.

    Images at the same place of the two have the same class, but for one in each class at most. Raises ValueError for
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


def _perturbed(tokens: Tokens, near: Neighbours, cell: Cell, seed: int) -> Tokens:
    """The same random numbers as in the grid."""
    return perturb(tokens, near[:, : cell.delta], cell.alpha, 1.0, generator=stream(seed, "imitation"))


def _effects(
    decoders: dict[str, TokenizerLike],
    images: LabelledImages,
    indices: tuple[Tensor, Tensor],
    sets: dict[str, Tokens],
    extract: Extractor,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> tuple[Effects, dict[str, Tensor]]:
    """Every set of tokens decoded by every decoder, beside real images; and some images of each."""
    chosen, others = indices
    total, done = len(chosen) * (2 + len(sets) * len(decoders)), 0

    def pixels_of(some: Tensor) -> Iterator[Tensor]:
        return (to_pixels(images.images(part)) for part in some.split(batch_size))

    def seen(batches: Iterator[Tensor]) -> Look:
        nonlocal done
        progress(done, total)
        done += len(chosen)
        return look(batches, extract)

    shown = torch.arange(EXAMPLES) * len(chosen) // EXAMPLES
    effects = Effects(seen(pixels_of(others)), seen(pixels_of(chosen)))
    examples = {"real": torch.cat(list(pixels_of(chosen[shown])))}
    for name, tokens in sets.items():
        for decoder, model in decoders.items():
            effects.add(name, decoder, seen(decoded(model, tokens, batch_size)))
            key = name if decoder == "original" else f"{name}, {decoder}"
            examples[key] = torch.cat(list(decoded(model, tokens[shown], batch_size)))
    progress(total, total)
    return effects, examples


def encode(tokenizer: TokenizerLike, images: LabelledImages, indices: Tensor, batch_size: int) -> Tensor:
    """The tokens of some images, or their latents where there is no codebook, on the CPU."""
    return torch.cat([encoded(tokenizer, images.images(part)) for part in indices.split(batch_size)])


def _plane(tokenizer: TokenizerLike, sets: dict[str, Tokens]) -> dict[str, Any]:
    """Sets of tokens in the plane in which the latents of real images vary most."""
    device = tokenizer.device
    plane = principal_plane(tokenizer.lookup(sets["real"].to(device)).float().cpu())

    def points(tokens: Tokens) -> list[tuple[float, ...]]:
        some = tokens[torch.arange(min(SHOWN, len(tokens))) * len(tokens) // min(SHOWN, len(tokens))]
        return [tuple(point) for point in plane.project(tokenizer.lookup(some.to(device)).float().cpu()).tolist()]

    return {"share": plane.share, "points": {name: points(tokens) for name, tokens in sets.items()}}


def _check(
    tokenizer: TokenizerLike, generator: GeneratorLike, sampling: Sampling, tuned: TokenizerLike | None
) -> Codebook:
    """The codebook of all parts. Raises ValueError for parts that were not made for each other."""
    check_fit(generator, tokenizer, sampling)
    for model in (tokenizer, generator, tuned):
        check_float32(model)
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "a generator of tokens fits no other"
    other = codebook if tuned is None else codebook_of(tuned)
    if other is None or not torch.equal(other.cpu(), codebook.cpu()):
        raise ValueError(
            "the tuned tokenizer has another codebook, so it cannot decode the same tokens; "
            "give what post-train made of this very tokenizer"
        )
    return codebook
