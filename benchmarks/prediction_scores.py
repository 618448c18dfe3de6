"""The candidates of the prediction study, measured of finished tokenizers: what each is, is in candidates.md.

They go to a file of their own for each tokenizer. What depends on the tokens alone (the probe, resampled tokens) lies
in a folder that tokenizers with equal tokens share, and is not made again for another feature space.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from main_training_arms import Size, file_name, generator_training
from main_training_more import Finished, finished
from main_training_scores import Judge, Notes, decoded, nats, reconstruction, tokens_of
from main_training_study import WORK
from prediction_counts import predictability
from torch import Tensor

from robustok.data.latent_cache import LatentCache
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.codebook_use import code_counts
from robustok.evaluation.metrics.pfid import BLOCK, Cell, perturbed_by_cells
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.locking import claim
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Codebook, Labels, Tokens
from robustok.tokenizer.perturbation import chosen_tokens, neighbors
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.generator_training import GeneratorTraining, train_generator

PROBE = 0.02  # of the generator's budget
DISTANCES = (0.2, 0.4, 0.8)  # of replacements, in units of the codes' spread
SIGMAS = (0.0, 0.25, 0.5, 0.75)  # shares of tokens that are kept
FIXED = 0.3  # share of tokens that fixed replacement replaces
EQUAL = 0.9  # and equal code distance


class Tokenized(NamedTuple):
    """A tokenizer with the images that all of its scores are of."""

    tokenizer: Tokenizer
    tokens: Tokens
    labels: Labels
    counts: Tensor  # of each code in the training images


def spread(codebook: Codebook, counts: Tensor) -> float:
    """Root mean square distance of the codes from their mean, each as often as it is used."""
    share, codes = counts.double() / counts.sum(), codebook.detach().double()
    return float((share @ (codes - share @ codes).square()).sum().sqrt())


def mean_distances(codebook: Codebook, counts: Tensor) -> Tensor:
    """Mean distance of a token in use to its delta nearest codes, for delta from 1 to K - 1."""
    used = counts.nonzero().flatten()
    codes, share = codebook.detach().float(), counts[used].double() / counts.sum()
    total = torch.zeros(len(codes), dtype=torch.float64)
    for part, weight in zip(used.split(512), share.split(512), strict=True):
        total += (
            weight
            @ torch.cdist(codes[part], codes, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values.double()
        )
    return total.cumsum(0)[1:] / torch.arange(1, len(codes))  # the nearest is the code itself


def equal_distance_deltas(codebook: Codebook, counts: Tensor) -> tuple[list[int], list[float]]:
    """Of each wanted distance the delta that comes nearest to it, and the distance that it has."""
    distances = mean_distances(codebook, counts) / spread(codebook, counts)
    deltas = [int((distances - wanted).abs().argmin()) + 1 for wanted in DISTANCES]
    return deltas, [float(distances[delta - 1]) for delta in deltas]


def at_equal_distance(one: Tokenized, delta: int) -> Tokens:
    near, purpose = neighbors(one.tokenizer.codebook, delta), derive(0, "equal code distance")
    blocks = (
        next(perturbed_by_cells(part, near, [Cell(EQUAL, delta)], seed=purpose, block=block))[1]
        for block, part in enumerate(one.tokens.split(BLOCK))
    )
    return torch.cat(list(blocks))


def fixed_replacement(one: Tokenized) -> Tokens:
    generator = stream(0, "fixed replacement")
    chosen = chosen_tokens(*one.tokens.shape, FIXED, 1.0, generator=generator)
    drawn = torch.multinomial(one.counts.double(), one.tokens.numel(), replacement=True, generator=generator)
    return torch.where(chosen, drawn.view_as(one.tokens), one.tokens)


def probe_training(tokenizer: Tokenizer, size: Size, seed: int) -> GeneratorTraining:
    """The generator's training, cut to a small share: also its warm-up, and the learning rate falls within it."""
    whole = generator_training(tokenizer.tokens_per_image, size, seed, len(tokenizer.codebook))
    steps, warmup = max(1, round(PROBE * whole.loop.steps)), max(1, round(PROBE * whole.optim.warmup))
    return replace(whole, loop=replace(whole.loop, steps=steps, keep_last=1), optim=replace(whole.optim, warmup=warmup))


def resampled(generator: AutoregressiveModel, one: Tokenized, sigma: float, path: Path) -> Tokens:
    """Of each image a share of tokens kept, the others drawn given those and what comes before; drawn once."""
    if not path.exists():
        keep = chosen_tokens(*one.tokens.shape, sigma, 1.0, generator=stream(0, "resampled"))
        seed = derive(0, "resampled")
        tokens = sample_tokens(
            generator, one.labels, Sampling(), seed=seed, keep=keep, tokens=one.tokens, batch_size=500
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tokens.to(torch.int16), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return torch.load(path, weights_only=True).long()


def measure(arm: Finished, judge: Judge, shared: Path, notes: Notes) -> None:
    """Measure what is not in the notes yet, Frechet distances in the judge's spaces."""
    tokenizer, codes = arm.tokenizer, len(arm.tokenizer.codebook)
    cache = LatentCache(arm.generator / "tokens", tokenizer)
    tokens = cache.plain(torch.arange(len(cache)))
    real, labels = tokens_of(tokenizer, judge.validation, judge.chosen), judge.validation.labels[judge.chosen]
    one = Tokenized(tokenizer, real, labels, code_counts(tokens, codes))
    notes.once("counted", lambda: predictability(tokens, cache.labels, codes))
    config = probe_training(tokenizer, judge.size, arm.values["seed"])
    probe = train_generator(config, cache, shared / "probe", quiet=True)
    notes.once("probe", lambda: nats(probe, real, labels))
    deltas, _ = notes.once("equal code distances", lambda: equal_distance_deltas(tokenizer.codebook, one.counts))

    def distances(name: str, make: Callable[[], Tokens]) -> None:
        """Add the FD of images that a candidate makes of tokens, where it is missing in a space."""
        there = notes.values.get("fd", {}).get(name, {})
        if judge.spaces.keys() - there.keys():
            found = judge.distances(decoded(tokenizer, make()), "chosen")
            notes.look("fd", name, there | found)
            print(f"  {name}: {found}", flush=True)

    if judge.spaces.keys() - arm.values["reconstruction"]["pfid"].keys() - notes.values.get("pfid", {}).keys():
        found = reconstruction(tokenizer, judge)
        for name in judge.spaces:
            notes.look("rfid", name, found["rfid"][name])
            notes.look("pfid", name, found["pfid"][name])
    for wanted, delta in zip(DISTANCES, deltas, strict=True):
        distances(f"equal code distance {wanted:g}", lambda delta=delta: at_equal_distance(one, delta))
    distances("fixed replacement", lambda: fixed_replacement(one))
    generators = {"probe": probe, "generator": AutoregressiveModel.from_pretrained(arm.generator / "generator")}
    for name, generator in generators.items():
        for sigma in SIGMAS:
            path = shared / f"resampled_by_{name}_{sigma:g}.pt"
            distances(f"resampled by {name} {sigma:g}", lambda g=generator, s=sigma, p=path: resampled(g, one, s, p))


def score(runs: Path, results: Path, others: Sequence[Path], size: Size, names: Sequence[str]) -> None:
    """Measure the candidates of every finished tokenizer, also of those in `others`: folders of models, and of results.

    In the study's own feature spaces, or in those of the names.
    """
    judge = Judge(size, runs, {name: extractor(name) for name in names} or None)
    for arm in (*finished(runs, results), *(finished(*others) if others else ())):
        name, seed = arm.values["arm"], arm.values["seed"]
        print(f"{name}, seed {seed}", flush=True)
        shared = runs / "probes" / f"{arm.values['tokens_of']}_{seed}"
        path = results / "candidates" / f"{file_name(name, seed)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with claim(shared / WORK) as free:
            if not free:
                print("  is being measured by another process", flush=True)
                continue
            notes = Notes(path)
            for about in ("arm", "seed", "tokens_of"):
                notes.once(about, lambda of=about, arm=arm: arm.values[of])
            measure(arm, judge, shared, notes)
