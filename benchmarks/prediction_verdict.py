"""How candidates go with gFID over tokenizers: r, ranks, errors on those left out, and what decoders explain."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from correlation import ROUNDS, Estimate, correlation, left_out, left_out_ratio, pearson, spearman
from main_training_page import table

ENOUGH = 16  # tokenizers, before anything is called a prediction
LISTED = 8  # tokenizers, before candidates are listed: of so many, some fit any few points
PREDICTION = 0.5  # leave-one-out error, over that of the mean, below which it is one
ALL, ONE_OF_EACH = "All tokenizers", "One tokenizer of each latent space"
FITTED = "(fitted) "  # begins the names of candidates that are predictions of gFID, not numbers
# begin the names of what needs a finished generator
DIAGNOSES = ("nats", "resampled by the generator", "followed by the generator", "generation-aware rFID")
ABOUT = """
- **Pearson, Spearman**: with gFID over tokenizers. Spearman's is the same for log gFID.
- **error**: root mean square error of gFID as a line fitted on the other tokenizers says it, over that of the mean of
  the others. 1 knows nothing; below 0.5 is wanted.
- **error, kin left out**: the same, all tokenizers with the same tokens or latents being left out, and drawn,
  together, for they are not independent.
- In brackets: 95 % intervals by bootstrap over tokenizers (all copies of a tokenizer are left out with
  it). With so few tokenizers they are wide, and of so many candidates some look good by chance.
- *(fitted)* candidates are two numbers at once; what is correlated are the predictions from the others, which is
  stricter than for a single number.
- *(diagnosis)* needs the finished generator, so it predicts nothing.
"""


class Measured(NamedTuple):
    """A tokenizer's gFID and its candidates, in every space that they are known in."""

    name: str
    latents: str  # equal for tokenizers that differ in their decoders alone
    gfid: Mapping[str, float]
    candidates: Mapping[str, Mapping[str, tuple[float, ...]]]  # by space and name: a number, or those that are fitted


def one_of_each(found: Sequence[Measured]) -> list[Measured]:
    """The first tokenizer of each latent space."""
    return list({one.latents: one for one in reversed(found)}.values())[::-1]


def report(
    found: Sequence[Measured],
    spaces: Sequence[str],
    judged_in: Sequence[str],
    about: str,
    some: Mapping[str, Sequence[Measured]] | None = None,
) -> Iterator[str]:
    """What predicts, which part of gFID each candidate explains, and all of them in each space.

    A winner must hold in the spaces `judged_in`; `about` says what candidates are, `some` by what they are called
    which of the tokenizers to judge by themselves.
    """
    groups = {ALL: found, ONE_OF_EACH: one_of_each(found)} | dict(some or {})
    tables = {title: {space: judged(group, space) for space in spaces} for title, group in groups.items()}
    yield "\n## What predicts\n"
    yield from verdict(tables, judged_in)
    yield "\n## Which part of gFID each explains\n"
    yield from parts(found, judged_in)
    yield "\n## Every candidate\n" + ABOUT + about
    titled = [
        (f"{space}{'' if title == ALL else f', {title[0].lower()}{title[1:]}'}: {count} tokenizers", rows)
        for space in spaces
        for title, (count, rows) in ((title, of[space]) for title, of in tables.items())
    ]
    for title, rows in titled:
        if rows:
            yield f"\n### {title}\n"
            yield from compared(rows)
    if few := [title for title, rows in titled if not rows]:
        yield f"\nToo few to say anything: {'; '.join(few)}."


Judged = dict[str, tuple[int, list["Row"]]]  # by space: how many tokenizers, and each candidate


class Row(NamedTuple):
    """How a candidate goes with gFID in a space."""

    name: str
    pearson: Estimate
    spearman: Estimate
    pearson_log: Estimate
    error: Estimate
    error_apart: Estimate
    error_log: Estimate

    @property
    def diagnosis(self) -> bool:
        return is_diagnosis(self.name)


def judged(tokenizers: Sequence[Measured], space: str) -> tuple[int, list[Row]]:
    """How many tokenizers have everything in a space, and each candidate, the lowest error first."""
    known = [one for one in tokenizers if space in one.candidates and space in one.gfid]
    numbers, gfid = [one.candidates[space] for one in known], [one.gfid[space] for one in known]
    if len(gfid) < LISTED:
        return len(gfid), []
    logs, latents = [math.log(value) for value in gfid], [one.latents for one in known]
    several = 3 <= len({*latents}) < len(latents)
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
                left_out_ratio(columns, gfid, kin=latents, rounds=ROUNDS) if several else Estimate(*[math.nan] * 3),
                left_out_ratio(columns, logs, rounds=ROUNDS),
            )
        )
    return len(gfid), sorted(rows, key=lambda row: row.error.value if row.error.value == row.error.value else math.inf)


def verdict(groups: Mapping[str, Judged], spaces: Sequence[str]) -> Iterator[str]:
    """The winner by the rules of each group of tokenizers; none where there are too few."""
    for title, tables in groups.items():
        count = min(tables[space][0] for space in spaces)
        if count < ENOUGH:
            yield f"- {title}: {count}, fewer than the {ENOUGH} that are wanted: nothing here is called a prediction."
            continue
        name = winner(tables, spaces)
        if name is None:
            yield f"- {title} ({count}): no candidate's interval of the error ends below 1 in {', '.join(spaces)}."
            continue
        errors = {space: next(row.error for row in tables[space][1] if row.name == name) for space in spaces}
        held = all(error.value < PREDICTION for error in errors.values())
        yield (
            f"- {title} ({count}): the best is *{name}*, whose error is "
            + ", ".join(f"{in_words(error)} in {space}" for space, error in errors.items())
            + (": a prediction." if held else f": short of the {PREDICTION:g} that would be a prediction.")
        )


def winner(tables: Judged, spaces: Sequence[str]) -> str | None:
    """Of the candidates whose interval ends below 1 in all spaces, the one with the lowest error in the first."""

    def holds(name: str) -> bool:
        return all(row.error.high < 1 for space in spaces for row in tables[space][1] if row.name == name)

    rows = tables[spaces[0]][1]  # the lowest error first
    return next((row.name for row in rows if not row.diagnosis and holds(row.name)), None)


def parts(found: Sequence[Measured], spaces: Sequence[str]) -> Iterator[str]:
    """Each candidate's r with what decoders change of gFID, and with what latent spaces do, in the judged spaces."""
    yield (
        "Tokenizers with equal tokens or latents, and so with one generator, differ in their decoders alone. "
        "*Decoder*: r of what is above and below the mean of those with the same ones. *Latent space*: r of these "
        "means, one for each set of tokens or latents. In brackets: 95 % intervals by bootstrap, of tokenizers or of "
        "such sets. Beside each space: how much of gFID's variance is of decoders.\n"
    )
    split = [(space, apart_in(found, space)) for space in spaces]
    told = [(f"{space} ({share:.0%})", rows) for space, (share, rows) in split if rows]
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


def apart_in(found: Sequence[Measured], space: str) -> tuple[float, dict[str, tuple[Estimate, Estimate]]]:
    """In a space: the decoders' share of gFID's variance, and each candidate's r with their part and with the rest."""
    known = [one for one in found if space in one.gfid]
    if any(space not in one.candidates for one in known):
        return math.nan, {}
    latents, numbers = [one.latents for one in known], [one.candidates[space] for one in known]
    gfid = apart([one.gfid[space] for one in known], latents)
    if len(gfid.of_decoders) < LISTED or len(gfid.means) < 3:
        return math.nan, {}
    rows = {}
    for name in (name for name, value in numbers[0].items() if len(value) == 1):
        own = apart([number[name][0] for number in numbers], latents)
        rows[name] = (
            correlation(pearson, own.of_decoders, gfid.of_decoders, rounds=ROUNDS),
            correlation(pearson, own.means, gfid.means, rounds=ROUNDS),
        )
    return gfid.share, rows


class Apart(NamedTuple):
    """Numbers of tokenizers, split into what decoders and what latent spaces make of them."""

    of_decoders: list[float]  # of each tokenizer whose latents others have, too: above the mean of these
    means: list[float]  # of each latent space
    share: float  # of the sum of squares that is of decoders


def apart(values: Sequence[float], latents: Sequence[str]) -> Apart:
    """`latents` names each tokenizer's latent space."""
    pairs = list(zip(values, latents, strict=True))
    sets = [[value for value, own in pairs if own == name] for name in dict.fromkeys(latents)]
    means = [sum(members) / len(members) for members in sets]
    shared = [(members, mean) for members, mean in zip(sets, means, strict=True) if len(members) > 1]
    own = [0.0 if math.isclose(value, mean) else value - mean for members, mean in shared for value in members]
    overall = sum(values) / len(values)
    whole = sum((value - overall) ** 2 for value in values)
    return Apart(own, means, sum(value**2 for value in own) / whole if whole else math.nan)


def compared(rows: Sequence[Row]) -> Iterator[str]:
    """One row a candidate."""
    yield from table(
        (
            "candidate",
            "error",
            "error, kin left out",
            "error of log gFID",
            "Pearson",
            "Pearson, log gFID",
            "Spearman",
        ),
        (
            (
                marked(row.name),
                *map(in_words, (row.error, row.error_apart, row.error_log, row.pearson, row.pearson_log, row.spearman)),
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


def log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan
