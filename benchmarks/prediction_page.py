"""The page of the prediction study, from its JSON files: how each candidate goes with gFID, and what is missing."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from correlation import ROUNDS, Estimate, correlation, left_out, left_out_ratio, pearson, spearman
from main_training_arms import QUEUE
from main_training_page import table
from prediction_scores import DISTANCES, SIGMAS

from robustok.runtime.checkpoint import read_json, write_bytes

ENOUGH = 16  # tokenizers, before anything is called a prediction
LISTED = 8  # tokenizers, before candidates are listed: of so many, some fit any few points
PREDICTION = 0.5  # leave-one-out error, over that of the mean, below which it is one
JUDGED_IN = ("lite0", "convolutions", "perceptron")  # a winner must hold in all of them
SPACES = (*JUDGED_IN, "lite2", "vgg-hed")
FITTED = "(fitted) "  # begins the names of candidates that are predictions of gFID, not numbers
DIAGNOSES = ("nats", "resampled by the generator")  # begin the names of what needs a finished generator
HEAD = """# Which score predicts gFID?

*Written by `benchmarks/prediction_study.py page` from JSON files; do not edit.*

Given a tokenizer and its images, but no finished generator: which number ranks tokenizers as the gFID of a generator
trained on them would? What is computed and how it is judged was [fixed before](candidates.md).
"""
ABOUT = """
- **Pearson, Spearman**: with gFID over tokenizers. Spearman's is the same for log gFID.
- **error**: root mean square error of gFID as a line fitted on the other tokenizers says it, over that of the mean of
  the others. 1 knows nothing; below 0.5 is wanted.
- In brackets: 95 % intervals by bootstrap over tokenizers (all copies of a tokenizer are left out with
  it). With so few tokenizers they are wide, and of so many candidates some look good by chance.
- *(fitted)* candidates are two numbers at once; what is correlated are the predictions from the others, which is
  stricter than for a single number.
- *(diagnosis)* needs the finished generator, so it predicts nothing.
- Resampled: FD where a share sigma of the tokens is kept; at 0 it is that of images that the probe, or the generator,
  samples without guidance ("probe, converted"); the area is that of the trapezoids through sigma = 0, 0.25, 0.5, 0.75
  and 1, where it is rFID.
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


def log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def area(curve: Sequence[float], rfid: float) -> float:
    """Under FD over sigma from 0 to 1, by trapezoids; at 1, where all tokens are kept, FD is rFID."""
    at = torch.tensor([*SIGMAS, 1.0], dtype=torch.float64)
    return float(torch.trapezoid(torch.tensor([*curve, rfid], dtype=torch.float64), at))


class Row(NamedTuple):
    """How a candidate goes with gFID in a space."""

    name: str
    pearson: Estimate
    spearman: Estimate
    pearson_log: Estimate
    error: Estimate
    error_log: Estimate

    @property
    def diagnosis(self) -> bool:
        return is_diagnosis(self.name)


def judged(tokenizers: Sequence[Tokenizer], space: str) -> tuple[int, list[Row]]:
    """How many tokenizers have everything in a space, and each candidate, the lowest error first."""
    numbers: list[dict[str, tuple[float, ...]]] = []
    gfid: list[float] = []
    for tokenizer in tokenizers:
        with suppress(KeyError):
            all_of_it, target = candidates(tokenizer, space), tokenizer.study["gfid"][space]
            numbers.append(all_of_it)
            gfid.append(target)
    if len(gfid) < LISTED:
        return len(gfid), []
    logs = [math.log(value) for value in gfid]
    rows = []
    for name in numbers[0]:
        columns = list(zip(*(of[name] for of in numbers), strict=True))
        single = len(columns) == 1
        value, value_log = (columns[0],) * 2 if single else (left_out(columns, y) for y in (gfid, logs))
        rows.append(
            Row(
                name,
                correlation(pearson, value, gfid, rounds=ROUNDS),
                correlation(spearman, value, gfid, rounds=ROUNDS),
                correlation(pearson, value_log, logs, rounds=ROUNDS),
                left_out_ratio(columns, gfid, rounds=ROUNDS),
                left_out_ratio(columns, logs, rounds=ROUNDS),
            )
        )
    return len(gfid), sorted(rows, key=lambda row: row.error.value if row.error.value == row.error.value else math.inf)


def page(results: Path, others: Path, kinds: Sequence[str], seed: int) -> Iterator[str]:
    """The lines of the page; `kinds` are the new tokenizers."""
    found = read(results, others)
    independent = list({tokenizer.tokens: tokenizer for tokenizer in reversed(found)}.values())[::-1]
    yield HEAD
    wanted = [*((name, seed) for name in kinds), *QUEUE]
    there = {(tokenizer.study["arm"], tokenizer.study["seed"]) for tokenizer in found}
    new = sum((name, seed) in there for name in kinds)
    missing = [name for name in kinds if (name, seed) not in there]
    if missing or len(found) < len(wanted):
        yield (
            f"**Not finished: {len(found)} of {len(wanted)} tokenizers** ({new} of {len(kinds)} new ones, "
            f"{len(found) - new} of {len(QUEUE)} of the main-training study), with {len(independent)} different sets "
            f"of tokens. New ones to come: {', '.join(missing) or 'none'}.\n"
        )
    if not found:
        return
    yield "## The tokenizers\n"
    yield from listed(found)
    if told := list(networks(found)):
        yield "\nFeature spaces that are not quite the same network for all tokenizers:\n"
        yield from told
    whole, apart = ({space: judged(some, space) for space in SPACES} for some in (found, independent))
    yield "\n## What predicts\n"
    yield from verdict(whole, apart)
    yield "\n## Which part of gFID each explains\n"
    yield from parts(found)
    yield "\n## Every candidate\n" + ABOUT
    tables = [
        (f"{space}{title}: {count} tokenizers", rows)
        for space in SPACES
        for title, (count, rows) in (("", whole[space]), (", one tokenizer of each latent space", apart[space]))
    ]
    for title, rows in tables:
        if rows:
            yield f"\n### {title}\n"
            yield from compared(rows)
    if few := [title for title, rows in tables if not rows]:
        yield f"\nToo few to say anything: {'; '.join(few)}."


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


Judged = dict[str, tuple[int, list[Row]]]


def verdict(whole: Judged, apart: Judged) -> Iterator[str]:
    """The winner by the rules, of all tokenizers and of independent ones; none where there are too few."""
    for title, tables in (("All tokenizers", whole), ("One tokenizer of each latent space", apart)):
        count = min(tables[space][0] for space in JUDGED_IN)
        if count < ENOUGH:
            yield f"- {title}: {count}, fewer than the {ENOUGH} that are wanted: nothing here is called a prediction."
            continue
        name = winner(tables)
        if name is None:
            yield f"- {title} ({count}): no candidate's interval of the error ends below 1 in {', '.join(JUDGED_IN)}."
            continue
        errors = {space: next(row.error for row in tables[space][1] if row.name == name) for space in JUDGED_IN}
        held = all(error.value < PREDICTION for error in errors.values())
        yield (
            f"- {title} ({count}): the best is *{name}*, whose error is "
            + ", ".join(f"{in_words(error)} in {space}" for space, error in errors.items())
            + (": a prediction." if held else f": short of the {PREDICTION:g} that would be a prediction.")
        )


def winner(tables: Judged) -> str | None:
    """Of the candidates whose interval ends below 1 in all spaces, the one with the lowest error in the first."""

    def holds(name: str) -> bool:
        return all(row.error.high < 1 for space in JUDGED_IN for row in tables[space][1] if row.name == name)

    rows = tables[JUDGED_IN[0]][1]  # the lowest error first
    return next((row.name for row in rows if not row.diagnosis and holds(row.name)), None)


def parts(found: Sequence[Tokenizer]) -> Iterator[str]:
    """Each candidate's r with what decoders change of gFID, and with what latent spaces do, in the judged spaces."""
    yield (
        "Tokenizers with equal tokens, and so with one generator, differ in their decoders alone. *Decoder*: r of what "
        "is above and below the mean of those with the same tokens. *Latent space*: r of these means, one for each set "
        "of tokens. In brackets: 95 % intervals by bootstrap, of tokenizers or of sets of tokens. Beside each space: "
        "how much of gFID's variance is of decoders.\n"
    )
    spaces = [(space, apart_in(found, space)) for space in JUDGED_IN]
    told = [(f"{space} ({share:.0%})", rows) for space, (share, rows) in spaces if rows]
    if not told:
        yield "Too few tokenizers to say anything."
        return
    by_decoders = {name: abs(estimate.value) for name, (estimate, _) in told[0][1].items()}
    yield from table(
        ("candidate", *(f"{part}, {title}" for title, _ in told for part in ("decoder", "latent space"))),
        (
            (marked(name), *(in_words(estimate) for _, rows in told for estimate in rows[name]))
            for name in sorted(by_decoders, key=lambda name: -by_decoders[name] if by_decoders[name] > 0 else 0.0)
        ),
    )


def apart_in(found: Sequence[Tokenizer], space: str) -> tuple[float, dict[str, tuple[Estimate, Estimate]]]:
    """In a space: the decoders' share of gFID's variance, and each candidate's r with their part and with the rest."""
    known = [one for one in found if space in one.study["gfid"]]
    tokens = [one.tokens for one in known]
    try:
        numbers = [candidates(one, space) for one in known]
    except KeyError:
        return math.nan, {}
    gfid = apart([one.study["gfid"][space] for one in known], tokens)
    if len(gfid.of_decoders) < LISTED or len(gfid.means) < 3:
        return math.nan, {}
    rows = {}
    for name in (name for name, value in numbers[0].items() if len(value) == 1):
        own = apart([number[name][0] for number in numbers], tokens)
        rows[name] = (
            correlation(pearson, own.of_decoders, gfid.of_decoders, rounds=ROUNDS),
            correlation(pearson, own.means, gfid.means, rounds=ROUNDS),
        )
    return gfid.share, rows


class Apart(NamedTuple):
    """Numbers of tokenizers, split into what decoders and what sets of tokens make of them."""

    of_decoders: list[float]  # of each tokenizer whose tokens others have, too: above the mean of these
    means: list[float]  # of each set of tokens
    share: float  # of the sum of squares that is of decoders


def apart(values: Sequence[float], tokens: Sequence[str]) -> Apart:
    sets = [[value for value, own in zip(values, tokens, strict=True) if own == name] for name in dict.fromkeys(tokens)]
    means = [sum(members) / len(members) for members in sets]
    shared = [(members, mean) for members, mean in zip(sets, means, strict=True) if len(members) > 1]
    own = [0.0 if math.isclose(value, mean) else value - mean for members, mean in shared for value in members]
    overall = sum(values) / len(values)
    whole = sum((value - overall) ** 2 for value in values)
    return Apart(own, means, sum(value**2 for value in own) / whole if whole else math.nan)


def compared(rows: Sequence[Row]) -> Iterator[str]:
    """One row a candidate."""
    yield from table(
        ("candidate", "error", "error of log gFID", "Pearson", "Pearson, log gFID", "Spearman"),
        (
            (
                marked(row.name),
                *map(in_words, (row.error, row.error_log, row.pearson, row.pearson_log, row.spearman)),
            )
            for row in rows
        ),
    )


def is_diagnosis(name: str) -> bool:
    return name.startswith(DIAGNOSES)


def marked(name: str) -> str:
    """A candidate's name, and whether it needs the finished generator."""
    return f"{name} *(diagnosis)*" if is_diagnosis(name) else name


def in_words(estimate: Estimate) -> str:
    if estimate.value != estimate.value:
        return "-"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def write(results: Path, others: Path, kinds: Sequence[str], seed: int) -> None:
    """Write README.md beside the results, also where there are none yet."""
    write_bytes(results / "README.md", ("\n".join(page(results, others, kinds, seed)).rstrip() + "\n").encode())
