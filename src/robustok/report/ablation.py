"""Several seeds with and without latent perturbation, side by side."""

from collections.abc import Sequence

from robustok.evaluation.scores.intervals import seeds_interval
from robustok.evaluation.scores.metric_names import VARIANTS
from robustok.report.run import Run, find
from robustok.report.table import Column, Entry, Table, TableCell
from robustok.report.text import change, decimals, number, percent, signed_percent

TRAINED = {"unperturbed": "Without perturbation", "perturbed": "With perturbation"}  # as `arm` of a protocol
DISTANCES = {  # metric: name, note
    "rfid": ("rFID", ""),
    "rfid_pfid_images": ("rFID", "of pFID's images"),
    "pfid": ("pFID", ""),
    "ifid": ("iFID", ""),
}
FRACTION = "generator_share"  # of the generator's steps, in a protocol
WORDS = {0.25: "a quarter of", 0.5: "half of", 1.0: "all of"}


def ablation(run: Run) -> list[Table]:
    """With and without latent perturbation, seed by seed; and post-training's gain in each of them."""
    protocols = [record["protocol"] for record in run.ablation]
    seeds = sorted({p["seed"] for p in protocols if p["arm"] in TRAINED and "seed" in p})
    return [_trained(run, seeds), *_gains(run, seeds)] if seeds else []


def _value(run: Run, metric: str, variant: str, seed: int, fraction: float | None = None) -> float | None:
    """The first score of a variant and a seed; with a `fraction`, after that fraction of the generator's steps."""
    for record in find(run.ablation, metric, arm=variant, seed=seed):
        if fraction is None or record["protocol"].get(FRACTION, 1.0) == fraction:
            return record["value"]
    return None


def _trained(run: Run, seeds: Sequence[int]) -> Table:
    scores: list[tuple[str, str, str, float | None]] = [(*named, metric, None) for metric, named in DISTANCES.items()]
    for f in sorted({r["protocol"].get(FRACTION, 1.0) for r in find(run.ablation, "gfid_before")}):
        steps = WORDS.get(f, f"{percent(f, 0)} of")
        scores.append(("gFID", f"after {steps} the generator steps", "gfid_before", f))
    rows: list[list[Entry]] = []
    for name, note, metric, fraction in scores:
        values = [[_value(run, metric, variant, seed, fraction) for seed in seeds] for variant in TRAINED]
        if known := [value for of_seeds in values for value in of_seeds if value is not None]:
            cells = [
                number(value, decimals(max(known))) for of_seeds in values for value in (*of_seeds, _mean(of_seeds))
            ]
            changes = [c for a, b in zip(*values, strict=True) if (c := change(b, a)) is not None]
            rows.append([TableCell(name, note), *cells, _change(changes)])
    columns = [*(Column(f"seed {seed}", kind="quiet") for seed in seeds), Column("mean", kind="mean")]
    return Table(
        columns=["", *columns, *columns, Column("Change", "mean over seeds, 95 % interval", kind="value")],
        rows=rows,
        groups=[("", 1), *((title, len(columns)) for title in TRAINED.values()), ("", 1)],
        caption="The same budget with and without perturbation in main training",
        kind="arms",
    )


def _gains(run: Run, seeds: Sequence[int]) -> list[Table]:
    rows = []
    for variant, title in TRAINED.items():
        for seed in seeds:
            values = [_value(run, f"gfid_{decoder}", variant, seed, 1.0) for decoder in VARIANTS]
            before, control, after = values
            if after is not None:
                places = decimals(max(value for value in values if value is not None))
                gains = (signed_percent(change(after, before)), signed_percent(change(after, control)))
                rows.append([title, str(seed), *(number(value, places) for value in values), *gains])
    columns = ["Tokenizer", "Seed", "gFID before", "control", "after"]
    gained = [Column(f"after / {name}", kind="value") for name in ("before", "control")]
    caption = f"What post-training gains on the same generated {run.latents}"
    return [Table(columns=[*columns, *gained], rows=rows, caption=caption)] if rows else []


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _change(changes: Sequence[float]) -> TableCell:
    """The mean over seeds, and its 95 % interval where there are several."""
    if len(changes) < 2:
        return TableCell(signed_percent(changes[0] if changes else None))
    mean, ends = seeds_interval(list(changes))
    return TableCell(signed_percent(mean), " to ".join(map(signed_percent, ends)))
