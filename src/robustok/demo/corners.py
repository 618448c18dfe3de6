"""`robustok demo --corners`: all four corners of the method, several seeds.

{discrete, continuous} x {without, with perturbation in main training} x {before, control, after post-training}: each
corner is a demo of its own, with everything in its own folder, so a stopped table goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from robustok.demo.config import Demo
from robustok.demo.run import run_demo
from robustok.evaluation.scores.intervals import seeds_interval
from robustok.evaluation.scores.score import Score
from robustok.report.table import Column, Table
from robustok.report.text import BLANK, MINUS
from robustok.runtime.checkpoint import write_bytes, write_json

METRICS = ("rfid", "rfid_pfid_images", "pfid", "ifid", "gfid_before", "gfid_control", "gfid_after")
DECODERS = ("before", "control", "after")


def run_corners(
    demos: Mapping[str, Demo], out: str | Path, *, seeds: tuple[int, ...] = (0, 1, 2), quiet: bool = False
) -> list[Score]:
    """Run every corner for every seed; `demos` has a demo for each kind of latent.

    Writes a demo into `out/{kind}_{arm}_{seed}` each, the gathered scores into `out/corners.json`, and the table into
    `out/corners.md` anew after each of them. Returns the scores, whose protocols name kind, arm and seed.
    """
    out, records = Path(out), list[Score]()
    for seed in seeds:
        for kind, demo in demos.items():
            for arm, config in (("unperturbed", demo.without_perturbation()), ("perturbed", demo)):
                scores = run_demo(config.with_seed(seed), out / f"{kind}_{arm}_{seed}", quiet=quiet)
                where = {"kind": kind, "arm": arm, "seed": seed}
                records += [
                    replace(score, protocol={**score.protocol, **where})
                    for score in scores
                    if score.metric in METRICS and not score.protocol.get("held_out")
                ]
                write_json(out / "corners.json", [record.to_plain() for record in records])
                write_bytes(out / "corners.md", corners_table(records).encode())
    return records


def corners_table(records: list[Score]) -> str:
    """Markdown: a row for each corner, every cell the mean over seeds with its 95 % interval (Student's t).

    The changes are taken seed by seed, of the same latents, in percent.
    """
    heads = ["rFID", "rFID of pFID's images", "pFID", *(f"gFID {name}" for name in DECODERS)]
    heads += ["after / before", "after / control", "seeds"]
    rows = []
    corners = dict.fromkeys((r.protocol["kind"], r.protocol["arm"]) for r in records)
    for kind, arm in corners:
        of = [r for r in records if (r.protocol["kind"], r.protocol["arm"]) == (kind, arm)]
        by_metric = {metric: {r.protocol["seed"]: r.value for r in of if r.metric == metric} for metric in METRICS}
        before, control, after = (by_metric[f"gfid_{name}"] for name in DECODERS)
        cells = [_mean(list(by_metric[metric].values())) for metric in ("rfid", "rfid_pfid_images", "pfid")]
        cells += [_mean(list(values.values())) for values in (before, control, after)]
        for other in (before, control):
            shared = sorted(after.keys() & other.keys())
            cells.append(_mean([100 * (after[seed] / other[seed] - 1) for seed in shared], signed=True))
        perturbed = "with perturbation" if arm == "perturbed" else "without perturbation"
        rows.append([kind, perturbed, *cells, len(after)])
    return Table(columns=["latent", Column("main training", left=True), *heads], rows=rows).to_markdown()


def _mean(values: list[float], *, signed: bool = False) -> str:
    """`123.4 (120.1 to 126.7)`, of one seed without an interval."""
    sign, unit = ("+", " %") if signed else ("", "")
    if not values:
        return BLANK
    if len(values) == 1:
        return f"{values[0]:{sign}.1f}{unit}".replace("-", MINUS)
    mean, (low, high) = seeds_interval(values)
    return f"{mean:{sign}.1f}{unit} ({low:{sign}.1f} to {high:{sign}.1f})".replace("-", MINUS)
