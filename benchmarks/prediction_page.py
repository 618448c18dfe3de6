"""The page of the prediction study, from its JSON files: how each candidate goes with gFID, and what is missing."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from main_training_arms import QUEUE
from main_training_page import table, write_page
from prediction_scores import DISTANCES, SIGMAS
from prediction_verdict import FITTED, Measured, log, report

from robustok.runtime.checkpoint import read_json

JUDGED_IN = ("lite0", "convolutions", "perceptron")  # a winner must hold in all of them
SPACES = (*JUDGED_IN, "lite2", "vgg-hed")
HEAD = """# Which score predicts gFID?

*Written by `benchmarks/prediction_study.py page` from JSON files; do not edit.*

Given a tokenizer and its images, but no finished generator: which number ranks tokenizers as the gFID of a generator
trained on them would? What is computed and how it is judged was [fixed before](candidates.md).
"""
ABOUT = """- Resampled: FD where a share sigma of the tokens is kept; at 0 it is that of images that the probe, or the
  generator, samples without guidance ("probe, converted"); the area is that of the trapezoids through sigma = 0, 0.25,
  0.5, 0.75 and 1, where it is rFID.
- Equal code distance: where the nearest code is farther away than wanted, it is the one that replaces, so 0.2 and 0.4
  can be equal.
- N is 64 for all, so nats and entropies of an image rank as those of a token do.
"""


class Tokenizer(NamedTuple):
    """One tokenizer's measurements, from its file of the study and that of its candidates."""

    name: str
    study: dict[str, Any]
    scores: dict[str, Any]

    @property
    def tokens(self) -> str:
        """What is equal for tokenizers whose second phase alone differs."""
        return f"{self.study['tokens_of']}, {self.study['seed']}"


def read(results: Path, others: Path) -> list[Tokenizer]:
    """Every tokenizer that has a gFID and all candidates in the first space, new ones first."""
    found = []
    for path in (*sorted(results.glob("*.json")), *sorted(others.glob("*.json"))):
        scores = results / "candidates" / path.name
        if scores.exists():
            study = read_json(path)
            tokenizer = Tokenizer(f"{study['arm']}, {study['seed']}", study, read_json(scores))
            with suppress(KeyError):
                candidates(tokenizer, JUDGED_IN[0])
                found.append(tokenizer)
    return found


def candidates(tokenizer: Tokenizer, space: str) -> dict[str, tuple[float, ...]]:
    """Every candidate's number, or numbers, in a space. Raises KeyError where one has not been measured."""
    study, scores = tokenizer.study, tokenizer.scores
    fd = {name: values[space] for name, values in scores["fd"].items() if space in values}
    rfid = (study["reconstruction"]["rfid"] | scores.get("rfid", {}))[space]
    pfid = (study["reconstruction"]["pfid"] | scores.get("pfid", {}))[space]
    equal = [fd[f"equal code distance {wanted:g}"] for wanted in DISTANCES]
    single = {"rFID": rfid, "pFID": pfid, "pFID - rFID": pfid - rfid, "pFID / rFID": pfid / rfid}
    single |= {f"equal code distance {wanted:g}": value for wanted, value in zip(DISTANCES, equal, strict=True)}
    single |= {"equal code distance, mean": sum(equal) / len(equal), "fixed replacement": fd["fixed replacement"]}
    single |= scores["counted"] | {"probe, nats a token": scores["probe"]}
    for by, named in {"probe": "resampled by the probe", "generator": "resampled by the generator"}.items():
        curve = [fd[f"resampled by {by} {sigma:g}"] for sigma in SIGMAS]
        single |= {f"{named}, sigma {sigma:g}": value for sigma, value in zip(SIGMAS, curve, strict=True)}
        single[f"{named}, area"] = area(curve, rfid)
    single["nats of the generator"] = study["generator"]["nats"]
    predictable = log(scores["probe"])
    both = {
        f"{FITTED}log(pFID - rFID), log probe": (log(pfid - rfid), predictable),
        f"{FITTED}log rFID, log probe": (log(rfid), predictable),
    }
    return {name: (value,) for name, value in single.items()} | both


def area(curve: Sequence[float], rfid: float) -> float:
    """Under FD over sigma from 0 to 1, by trapezoids; at 1, where all tokens are kept, FD is rFID."""
    at = torch.tensor([*SIGMAS, 1.0], dtype=torch.float64)
    return float(torch.trapezoid(torch.tensor([*curve, rfid], dtype=torch.float64), at))


def page(results: Path, others: Path, kinds: Sequence[str], seed: int) -> Iterator[str]:
    """The lines of the page; `kinds` are the new tokenizers."""
    found = read(results, others)
    yield HEAD
    wanted = [*((name, seed) for name in kinds), *QUEUE]
    there = {(tokenizer.study["arm"], tokenizer.study["seed"]) for tokenizer in found}
    new = sum((name, seed) in there for name in kinds)
    missing = [name for name in kinds if (name, seed) not in there]
    if missing or len(found) < len(wanted):
        spaces = len({tokenizer.tokens for tokenizer in found})
        yield (
            f"**Not finished: {len(found)} of {len(wanted)} tokenizers** ({new} of {len(kinds)} new ones, "
            f"{len(found) - new} of {len(QUEUE)} of the main-training study), with {spaces} different sets "
            f"of tokens. New ones to come: {', '.join(missing) or 'none'}.\n"
        )
    if not found:
        return
    yield "## The tokenizers\n"
    yield from listed(found)
    if told := list(networks(found)):
        yield "\nFeature spaces that are not quite the same network for all tokenizers:\n"
        yield from told
    yield from report([measured(tokenizer) for tokenizer in found], SPACES, JUDGED_IN, ABOUT)


def measured(tokenizer: Tokenizer) -> Measured:
    """What is judged of a tokenizer, in the spaces in which everything has been measured."""
    numbers: dict[str, dict[str, tuple[float, ...]]] = {}
    for space in SPACES:
        with suppress(KeyError):
            numbers[space] = candidates(tokenizer, space)
    return Measured(tokenizer.name, tokenizer.tokens, tokenizer.study["gfid"], numbers)


def listed(found: Sequence[Tokenizer]) -> Iterator[str]:
    """One row a tokenizer."""
    alike = [tokenizer.tokens for tokenizer in found]
    yield (
        "rFID and pFID of the same images, and gFID, in lite0 / convolutions / perceptron. Equal letters: equal "
        "tokens, and one generator for both, so those are not independent.\n"
    )
    letters = dict(zip(dict.fromkeys(alike), lettered(), strict=False))
    yield from table(
        ("tokenizer, seed", "tokens", "codes", "perplexity", "rFID", "pFID", "probe, nats", "nats", "guidance", "gFID"),
        (
            (
                one.name,
                letters[one.tokens],
                one.study["generator"]["settings"]["generator"]["codebook_size"],
                f"{one.study['reconstruction']['perplexity']:.0f}",
                *(
                    " / ".join(f"{values[space]:.3g}" for space in JUDGED_IN)
                    for values in (one.study["reconstruction"]["rfid"], one.study["reconstruction"]["pfid"])
                ),
                f"{one.scores['probe']:.2f}",
                f"{one.study['generator']['nats']:.2f}",
                f"{one.study['guidance']:g}",
                " / ".join(f"{one.study['gfid'][space]:.3g}" for space in JUDGED_IN),
            )
            for one in found
        ),
    )


def lettered() -> Iterator[str]:
    """a to z, aa to zz and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(ascii_lowercase, repeat=length))


def networks(found: Sequence[Tokenizer]) -> Iterator[str]:
    """Which classifiers the tokenizers were scored by, where those of several machines are not the same."""
    for space in JUDGED_IN:
        told = [accuracy for one in found if (accuracy := one.study["spaces"][space].get("accuracy")) is not None]
        if len(set(told)) > 1:
            each = ", ".join(f"{accuracy:.2%} right ({count})" for accuracy, count in Counter(told).most_common())
            yield (
                f"- {space}: every machine trained it from the same seed, and processors round differently: {each}; "
                "a tokenizer's numbers are all of one of these."
            )


def write(results: Path, others: Path, kinds: Sequence[str], seed: int) -> None:
    """Write README.md beside the results, also where there are none yet."""
    write_page(results, page(results, others, kinds, seed))
