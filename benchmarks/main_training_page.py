"""The page of the main-training study, from its JSON files: tables by arm, and what is still missing."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from main_training_arms import ARMS, QUEUE

from robustok.evaluation.scores.intervals import seeds_interval
from robustok.runtime.checkpoint import read_json, write_bytes

Result = dict[str, Any]
BASE, CLEAN = "none", "two phases, clean"
HEAD = """# What main training with perturbed latents pays

*Written by `benchmarks/main_training_study.py page` from the JSON files beside it; do not edit.*
"""
ABOUT = {
    "none": "no perturbation, the whole budget",
    "paper": "beta 0.1, alpha 1, delta 2.4 % of the codes, annealed to half (arXiv 2509.12474)",
    "half of the images": "beta 0.5, alpha 1, delta 4 %, annealed to half",
    "stopped": "the same, but perturbed images teach the decoder only",
    "two phases": "clean for three quarters; then encoder and codebook frozen, beta 1, alpha 0.3, delta 4 %",
    "two phases, clean": "the same two phases without perturbation: what the second phase alone does",
    "two phases, as it departs": "alpha and delta as a pilot generator departs under teacher forcing",
    "two phases, as it samples": "alpha and delta of the perturbation whose latents are nearest to a pilot's samples",
    "two phases, rehearsed": "30 % of each image's tokens drawn anew by a pilot generator (300 steps, no classes)",
    "none, semantic": "none, with the semantic term (weight 0.1, Lite0 at 64 pixels)",
    "two phases, semantic": "two phases, with the semantic term",
}


def write(results: Path) -> None:
    """Write README.md beside the results, also where there are none yet. Raises ValueError for a damaged one."""
    found = [read_json(path) for path in sorted(results.glob("*.json"))]
    write_page(results, page(found))


def page(found: Sequence[Result]) -> Iterator[str]:
    """The lines of the page."""
    arms = {arm: {r["seed"]: r for r in found if r["arm"] == arm} for arm in ARMS}
    arms = {arm: runs for arm, runs in arms.items() if runs}
    yield HEAD
    yield "How its size was chosen, and what was tried on the way: [sizing.md](sizing.md).\n"
    if not found:
        yield "No arm is finished yet."
        yield from finished(found)
        return
    yield from problem(found)
    yield from finished(found)
    spaces = [space for space in found[0]["gfid"] if all(space in result["gfid"] for result in found)]
    yield "\n## gFID before post-training\n"
    yield (
        "Mean over seeds, with its 95 % interval (Student's t) from two seeds on. The change is the mean over seeds of "
        "the arm's value over that of `none` with the same seed; for two phases also over that of the clean two.\n"
    )
    for space in spaces:
        yield from generated(arms, space)
    tuned = {arm: {seed: r for seed, r in runs.items() if "post" in r} for arm, runs in arms.items()}
    tuned = {arm: runs for arm, runs in tuned.items() if runs}
    if tuned:
        yield "\n## gFID after post-training of both\n"
        spaces = [s for s in spaces if all(s in r["post"]["gfid"] for runs in tuned.values() for r in runs.values())]
        yield from table(("arm", *spaces, *(f"change in {space}" for space in spaces)), post_trained(tuned, spaces))
        yield "\nWhat post-training changed, of the same tokens, and recall before and after:\n"
        yield from table(
            ("arm", *spaces, *(f"recall in {space}" for space in spaces)), gained_by_post_training(tuned, spaces)
        )
    yield "\n## Reconstruction, robustness, predictability\n"
    yield from reconstructed(arms, spaces[0])
    yield "\n## Along the generator's training\n"
    yield from along(arms, spaces[0])
    yield "\n## How converged\n"
    yield "The share of its value that a validation loss gained in the last fifth of training; below 1 % was wanted.\n"
    yield from table(
        ("arm", "tokenizer", "generator"),
        (
            (arm, over(runs, tokenizer_gain, "{:.1%}"), over(runs, generator_gain, "{:.1%}"))
            for arm, runs in arms.items()
        ),
    )


def problem(found: Sequence[Result]) -> Iterator[str]:
    """What is trained and scored, and on what it was computed."""
    size, settings = found[0]["size"], found[0]["settings"]
    yield (
        f"Fashion-MNIST at {size['side']} pixels, {settings['tokenizer']['quantizer']['codebook_size']} codes, "
        f"{(size['side'] // 4) ** 2} tokens. Every tokenizer is trained for {size['tokenizer_steps']:,} steps of "
        f"{settings['loop']['batch_size']} images, every generator for {size['generator_steps']:,} steps of "
        f"{found[0]['generator']['settings']['loop']['batch_size']}. gFID: {size['generated']:,} images, every class "
        f"equally often, against {size['validation']:,} validation images, with the guidance that was best for the arm "
        f"in Lite0 on {size['held_out']:,} held-out training images. rFID and pFID: the same {size['perturbed']:,} "
        f"validation images, also as the reference. Precision and recall (k = 3): {size['compared']:,} on either side."
    )
    yield "\nFeature spaces:\n"
    for name, about in found[0]["spaces"].items():
        what = (
            f"a classifier of the data that nothing was trained in (accuracy {about['accuracy']:.1%}, seed "
            f"{about['seed']})"
            if "accuracy" in about
            else "the network of the perceptual, the adversarial and the Fréchet term, too"
            if name == "lite0"
            else "a network from a package, that nothing was trained in"
        )
        yield f"- `{name}`: {what}"
    where = sorted(
        {f"{c['cpu']}, {c['threads']} thread, torch {c['torch']}" for r in found for c in r["circumstances"]}
    )
    yield f"\nComputed on: {'; '.join(where)}. Commits: " + ", ".join(
        sorted({f"`{c['commit'][:9]}`" for r in found for c in r["circumstances"]})
    )


def finished(found: Sequence[Result]) -> Iterator[str]:
    """Which arms are there, and which are not."""
    done = {(result["arm"], result["seed"]) for result in found}
    missing = [entry for entry in QUEUE if entry not in done]
    yield "\n## Arms\n"
    yield from table(
        ("arm", "what it is", "seeds finished", "seeds to come"),
        (
            (
                arm,
                ABOUT[arm],
                *(", ".join(str(seed) for a, seed in part if a == arm) or "-" for part in (sorted(done), missing)),
            )
            for arm in ARMS
        ),
    )
    if missing:
        yield f"\n**Not finished**: {len(missing)} of {len(QUEUE)} runs are missing, and one seed proves nothing."


def generated(arms: dict[str, dict[int, Result]], space: str) -> Iterator[str]:
    """gFID, precision and recall in one space."""
    yield f"\n### In {space}\n"

    def row(arm: str, runs: dict[int, Result]) -> tuple[str, ...]:
        return (
            arm,
            over(runs, lambda r: r["gfid"][space], "{:.4g}"),
            change(arms, arm, lambda r: r["gfid"][space]),
            change(arms, arm, lambda r: r["gfid"][space], CLEAN) if arm.startswith("two phases") else "-",
            over(runs, lambda r: r["precision_recall"][space]["precision"], "{:.3f}"),
            over(runs, lambda r: r["precision_recall"][space]["recall"], "{:.3f}"),
            ", ".join(f"{r['guidance']:g}" for r in runs.values()),
        )

    columns = ("arm", "gFID", "change", "against the clean one", "precision", "recall", "guidance")
    yield from table(columns, (row(arm, runs) for arm, runs in arms.items()))


def post_trained(tuned: dict[str, dict[int, Result]], spaces: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """gFID of the same tokens once the decoder has been tuned for the generator, where it has been."""
    for arm, runs in tuned.items():
        values = [over(runs, lambda r, s=space: r["post"]["gfid"][s], "{:.4g}") for space in spaces]
        yield arm, *values, *(change(tuned, arm, lambda r, s=space: r["post"]["gfid"][s]) for space in spaces)


def gained_by_post_training(tuned: dict[str, dict[int, Result]], spaces: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The change of gFID from before to after, seed by seed, and recall on both sides."""

    def recall(runs: dict[int, Result], space: str) -> float:
        return mean(result["precision_recall"][space]["recall"] for result in runs.values())

    for arm, runs in tuned.items():
        pair = {"before": runs, "after": {seed: result["post"] for seed, result in runs.items()}}
        yield (
            arm,
            *(change(pair, "after", lambda r, s=space: r["gfid"][s], "before") for space in spaces),
            *(f"{recall(runs, space):.3f} to {recall(pair['after'], space):.3f}" for space in spaces),
        )


def reconstructed(arms: dict[str, dict[int, Result]], space: str) -> Iterator[str]:
    """rFID, pFID and how hard the tokens are."""

    def excess(result: Result) -> float:
        return result["reconstruction"]["pfid"][space] - result["reconstruction"]["rfid"][space]

    def row(arm: str, runs: dict[int, Result]) -> tuple[str, ...]:
        return (
            arm,
            over(runs, lambda r: r["reconstruction"]["rfid"][space], "{:.4g}"),
            over(runs, lambda r: r["reconstruction"]["pfid"][space], "{:.4g}"),
            change(arms, arm, excess),
            over(runs, lambda r: r["reconstruction"]["perplexity"], "{:.0f}"),
            over(runs, lambda r: r["generator"]["nats"], "{:.3f}"),
            change(arms, arm, lambda r: r["generator"]["nats"]),
        )

    yield f"In {space}. The excess is pFID less rFID.\n"
    columns = ("arm", "rFID", "pFID", "change of the excess", "perplexity", "nats a token", "change")
    yield from table(columns, (row(arm, runs) for arm, runs in arms.items()))


def along(arms: dict[str, dict[int, Result]], space: str) -> Iterator[str]:
    """gFID along training, and how soon it is what `none` has in the end."""
    first = next(iter(next(iter(arms.values())).values()))
    steps = [int(name.removeprefix("gfid at ")) for name in first if name.startswith("gfid at ")]
    yield f"In {space}, {first['size']['along']:,} images.\n"

    def row(arm: str, runs: dict[int, Result]) -> tuple[str, ...]:
        curve = [over(runs, lambda r, s=step: r[f"gfid at {s}"][space], "{:.4g}") for step in steps]
        base = arms.get(BASE, {})
        shares = [reaching(r, base[seed], steps, space) for seed, r in runs.items() if seed in base]
        return arm, *curve, ", ".join("never" if math.isinf(share) else f"{share:.2f}" for share in shares)

    columns = ("arm", *(f"step {step:,}" for step in steps), "share of the steps until the last of `none`, by seed")
    yield from table(columns, (row(arm, runs) for arm, runs in arms.items()))


def reaching(result: Result, base: Result, steps: Sequence[int], space: str) -> float:
    """Share of the generator's steps after which gFID is what that of `none` is at the end; between points, a line."""
    wanted = base[f"gfid at {steps[-1]}"][space]
    before: tuple[int, float] | None = None
    for step in steps:
        value = result[f"gfid at {step}"][space]
        if value <= wanted:
            if before is None or before[1] == value:
                return step / steps[-1]
            return (before[0] + (step - before[0]) * (before[1] - wanted) / (before[1] - value)) / steps[-1]
        before = step, value
    return math.inf


def gain_in_last_fifth(curve: dict[int, float]) -> float:
    """What a loss gained from four fifths of its steps to the end, over what it was; between points, a line."""
    steps = sorted(curve)
    at = 0.8 * steps[-1]
    later = next(step for step in steps if step >= at)
    earlier = max((step for step in steps if step < at), default=later)
    share = (at - earlier) / (later - earlier) if later > earlier else 1.0
    before = curve[earlier] + share * (curve[later] - curve[earlier])
    return (before - curve[steps[-1]]) / before


def tokenizer_gain(result: Result) -> float:
    return gain_in_last_fifth({int(step): loss["loss"] for step, loss in result["tokenizer_loss"].items()})


def generator_gain(result: Result) -> float:
    return gain_in_last_fifth({int(step): loss for step, loss in result["generator"]["generator_loss"].items()})


def over(runs: dict[int, Result], value: Callable[[Result], float], form: str) -> str:
    """A value's mean over seeds, with its interval from two seeds on."""
    values = [value(result) for result in runs.values()]
    if len(values) == 1:
        return form.format(values[0])
    mean, (low, high) = seeds_interval(values)
    return f"{form.format(mean)} ({form.format(low)} to {form.format(high)})"


def change(arms: dict[str, dict[int, Result]], arm: str, value: Callable[[Result], float], than: str = BASE) -> str:
    """By how much an arm's value differs from another's, seed by seed: the mean, with its interval."""
    base = arms.get(than, {})
    ratios = [value(r) / value(base[seed]) - 1 for seed, r in arms[arm].items() if seed in base]
    if arm == than or not ratios:
        return "-"
    if len(ratios) == 1:
        return f"{ratios[0]:+.1%}"
    mean, (low, high) = seeds_interval(ratios)
    return f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"


def write_page(folder: Path, lines: Iterable[str]) -> None:
    """Write README.md beside the results."""
    write_bytes(folder / "README.md", ("\n".join(lines).rstrip() + "\n").encode())


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(map(str, columns))} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
