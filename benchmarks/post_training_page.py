"""The page of the post-training bake-off, from its JSON files: gains by arm and space, diversity, looks, costs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from main_training_page import table, write_page
from post_training_arms import ARMS, CLEAN, CORNERS, ORIGINAL, SPACES, control_of

from robustok.evaluation.scores.intervals import seeds_interval
from robustok.runtime.checkpoint import read_json

Result = dict[str, Any]
HEAD = """# Which way of post-training gains most, also where nothing was trained

*Written by `benchmarks/post_training_bakeoff.py page` from the JSON files beside it; do not edit.*

Every arm tunes the same decoder for the same generator for as many steps, on two kinds of images that the generator
made: *pairs*, real images of whose tokens the generator drew all but a share sigma anew, and *free* samples. What is
asked of pairs are pixels and features of their real images (L1, L2, perceptual); adversarial and Frechet term look at
the pairs, too, or in arms called *free* at free samples. In arms called *limited* the balance of the adversarial term
is at most 0.5, as in the demo, in the others at most 10,000, as in VQGAN. *Gram* compares which features occur
together, *consistency* features of the discriminator, each with its real image (arXiv 2609.24088); *in two spaces* the
Frechet term is of lite0 and lite2, each over its own value (as FDDA). The step that is kept is chosen by held-out
training images in lite0; if none is better than the original, that is kept, and the change is 0; arms with *a witness*
(vgg-hed) keep one between both where the best is worse there. All decoders of a seed
decode the same samples, and validation images score them, which chose nothing.

What was tried before, shorter: [tried.md](tried.md).
"""


Control = Callable[[str], str | None]  # the arm that one is held against


def write(
    results: Path,
    head: str = HEAD,
    corners: Collection[str] = tuple(CORNERS),
    arms: Collection[str] = tuple(ARMS),
    control: Control = control_of,
) -> None:
    """Write README.md beside the results, also where there are none yet. Raises ValueError for a damaged one."""
    found = [read_json(path) for path in sorted(results.glob("*.json"))]
    lines = [head, *page(found, corners, arms, control)]
    write_page(results, lines)


def page(
    found: Sequence[Result], corners: Collection[str], known: Collection[str], control: Control = control_of
) -> Iterator[str]:
    """The lines of the page below its head: of each corner the known arms, as far as they are finished."""
    if not found:
        yield "No arm is finished yet."
    for corner in corners:
        arms = {arm: [r for r in found if (r["corner"], r["arm"]) == (corner, arm)] for arm in known}
        if arms := {arm: runs for arm, runs in arms.items() if runs}:
            yield f"\n## {corner.capitalize()}\n"
            yield from of_corner(arms, control)
    yield from circumstances(found)


def of_corner(arms: dict[str, list[Result]], control: Control) -> Iterator[str]:
    """What is known of one corner."""
    seeds = sorted({run["seed"] for runs in arms.values() for run in runs})
    yield seeds_in_words(seeds)
    spaces = [space for space in SPACES if all(space in run["scores"] for runs in arms.values() for run in runs)]
    if original := arms.get(ORIGINAL):
        before = (f"{space} {over(original, lambda r, s=space: r['scores'][s]['gfid'], '{:.1f}')}" for space in spaces)
        yield f"The original decoder's gFID: {', '.join(before)}.\n"
    tuned = {arm: runs for arm, runs in arms.items() if arm != ORIGINAL}
    yield "### Change of gFID\n"
    yield from table(
        ("arm", "seeds", *spaces, "step kept", "seconds of CPU"),
        (
            (
                arm,
                len(runs),
                *(gained(runs, space) for space in spaces),
                ", ".join(kept(run) for run in runs),
                over(runs, lambda r: r["seconds"]["cpu"], "{:.0f}"),
            )
            for arm, runs in tuned.items()
        ),
    )
    yield "\nSeconds are of the process that ended an arm: of one that was stopped in between, what was left of it."
    yield from against_controls(arms, spaces, control)
    yield "\n### Precision, recall and coverage\n"
    names = [(space, metric) for space in spaces for metric in ("precision", "recall", "coverage")]
    yield from table(
        ("arm", *(f"{metric}, {space}" for space, metric in names)),
        (
            (arm, *(over(runs, lambda r, s=s, m=m: r["scores"][s][m], "{:.3f}") for s, m in names))
            for arm, runs in arms.items()
        ),
    )
    if known := {arm: some for arm, runs in arms.items() if (some := [run for run in runs if "rfid" in run])}:
        yield "\n### Reconstruction\n"
        yield "rFID and PSNR (dB) of as many validation images as there are samples, against the same reference.\n"
        yield from table(
            ("arm", "seeds", *spaces, "PSNR"),
            (
                (
                    arm,
                    len(runs),
                    *(over(runs, lambda r, s=space: r["rfid"][s], "{:.1f}") for space in spaces),
                    over(runs, lambda r: r["psnr"], "{:.2f}"),
                )
                for arm, runs in known.items()
            ),
        )
    yield "\n### To the eye\n"
    yield "Off manifold: share of images in no real image's ball (lite0, k = 3). Color: Wasserstein distance of CIELAB"
    yield "statistics. Detail: power against real images' in the finest octave, in decibels; 0 is as much.\n"
    yield from table(
        ("arm", "off manifold", "color", "detail"),
        (
            (
                arm,
                over(runs, lambda r: 1 - r["scores"][spaces[0]]["precision"], "{:.1%}"),
                over(runs, lambda r: r["to_the_eye"]["color"], "{:.2f}"),
                over(runs, lambda r: r["to_the_eye"]["detail"][-1], "{:+.2f}"),
            )
            for arm, runs in arms.items()
        ),
    )
    if CLEAN in arms:
        yield "\nThe clean control is trained as long on images' own tokens or latents, nothing generated."
    for run in (run for runs in arms.values() for run in runs if run.get("tries")):
        yield f"\n### Tries of {run['arm']}, seed {run['seed']}\n"
        rows = ((t["sigma"], t["steps"], f"{t['distance']:.1f}", f"{t['seconds']:.0f}") for t in run["tries"])
        yield from table(("sigma", "steps", "held-out distance", "seconds"), rows)


def kept(run: Result) -> str:
    """The step whose decoder was kept, and the share of the way to it where that is not the whole."""
    share = run.get("share", 1.0)
    return str(run["step"]) if share == 1 else f"{run['step']} ({share:.0%} of the way)"


def against_controls(arms: dict[str, list[Result]], spaces: Sequence[str], control: Control) -> Iterator[str]:
    """gFID of each arm against its control's, seed by seed: mean, interval, and in how many seeds it is lower."""
    rows = []
    for arm, runs in arms.items():
        held_against = {run["seed"]: run for run in arms.get(control(arm) or "", ())}
        shared = [run for run in runs if run["seed"] in held_against]
        if not shared:
            continue
        cells = []
        for space in spaces:

            def change(run: Result, space: str = space, others: dict[int, Result] = held_against) -> float:
                return run["scores"][space]["gfid"] / others[run["seed"]]["scores"][space]["gfid"] - 1

            lower = sum(change(run) < 0 for run in shared)
            cells.append(f"{over(shared, change, '{:+.1%}')}; lower in {lower} of {len(shared)}")
        rows.append((arm, control(arm), *cells))
    if rows:
        yield "\n### gFID against the control, seed by seed\n"
        yield from table(("arm", "control", *spaces), rows)


def seeds_in_words(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One seed, {seeds[0]}: intervals are over images, and one seed proves nothing about the next one.\n"
    return f"Seeds {', '.join(map(str, seeds))}: mean, and its 95 % interval over seeds (Student's t) in brackets.\n"


def gain(space: str) -> Callable[[Result], float]:
    """The change of gFID as a share of what it was before."""

    def share(run: Result) -> float:
        scores = run["scores"][space]
        return scores["change"] / (scores["gfid"] - scores["change"])

    return share


def gained(runs: Sequence[Result], space: str) -> str:
    """The gain in a space, with its interval: over seeds, or of one seed over images."""
    if len(runs) > 1:
        return f"{over(runs, gain(space), '{:+.1%}')}; worst {max(map(gain(space), runs)):+.1%}"
    scores = runs[0]["scores"][space]
    low, high = (end / (scores["gfid"] - scores["change"]) for end in scores["interval"])
    return f"{gain(space)(runs[0]):+.1%} [{low:+.1%}, {high:+.1%}]"


def over(runs: Sequence[Result], value: Callable[[Result], float], form: str) -> str:
    """A value's mean over seeds, with its interval from two seeds on."""
    values = [value(run) for run in runs]
    if len(values) == 1:
        return form.format(values[0])
    mean, (low, high) = seeds_interval(values)
    return f"{form.format(mean)} [{form.format(low)}, {form.format(high)}]"


def circumstances(found: Sequence[Result]) -> Iterator[str]:
    """Where it was computed."""
    yield "\n## Circumstances\n"
    known = []
    for run in found:
        for where in run["circumstances"]:
            told = ", ".join(f"{name} {value}" for name, value in where.items() if name != "commit")
            if told not in known:
                known.append(told)
                yield f"- {told}"
