"""Several seeds with and without latent perturbation, side by side."""

from robustok.evaluation.scores.intervals import seeds_interval
from robustok.report.run import Run, find
from robustok.report.table import Cell, Column, Entry, Table
from robustok.report.text import change, decimals, number, percent, signed_percent

ARMS = {"unperturbed": "Without perturbation", "perturbed": "With perturbation"}
DISTANCES = {  # metric: name, note
    "rfid": ("rFID", ""),
    "rfid_pfid_images": ("rFID", "of pFID's images"),
    "pfid": ("pFID", ""),
    "ifid": ("iFID", ""),
}


def ablation(run: Run) -> list[Table]:
    """With and without latent perturbation, seed by seed; and post-training's gain in each arm and seed."""
    seeds = sorted(
        {r["protocol"]["seed"] for r in run.ablation if r["protocol"]["arm"] in ARMS and "seed" in r["protocol"]}
    )
    return [_arms(run, seeds), *_gains(run, seeds)] if seeds else []


def _value(run: Run, metric: str, arm: str, seed: int, fraction: float | None = None) -> float | None:
    """The first score of an arm and a seed; with a `fraction`, after that fraction of the generator's steps."""
    for record in find(run.ablation, metric, arm=arm, seed=seed):
        if fraction is None or record["protocol"].get("generator_share", 1.0) == fraction:
            return record["value"]
    return None


def _arms(run: Run, seeds: list[int]) -> Table:
    fractions = sorted({r["protocol"].get("generator_share", 1.0) for r in find(run.ablation, "gfid_before")})
    scores: list[tuple[str, str, str, float | None]] = [(*named, metric, None) for metric, named in DISTANCES.items()]
    scores += [("gFID", f"after {_part(f)} the generator steps", "gfid_before", f) for f in fractions]
    rows: list[list[Entry]] = []
    for name, note, metric, fraction in scores:
        without, using = ([_value(run, metric, arm, seed, fraction) for seed in seeds] for arm in ARMS)
        known = [value for value in (*without, *using) if value is not None]
        if known:
            places = decimals(max(known))
            changes = [c for a, b in zip(using, without, strict=True) if (c := change(a, b)) is not None]
            rows.append([Cell(name, note), *_arm(without, places), *_arm(using, places), _change(changes)])
    per_arm = [*(Column(f"seed {seed}", kind="quiet") for seed in seeds), Column("mean", kind="mean")]
    last = Column("Change", "mean over seeds, 95 % interval", kind="value")
    return Table(
        columns=["", *per_arm, *per_arm, last],
        rows=rows,
        groups=[("", 1), *((title, len(per_arm)) for title in ARMS.values()), ("", 1)],
        caption="The same budget with and without perturbation in main training",
        kind="arms",
    )


def _gains(run: Run, seeds: list[int]) -> list[Table]:
    rows = []
    for arm, title in ARMS.items():
        for seed in seeds:
            values = [_value(run, f"gfid_{name}", arm, seed, 1.0) for name in ("before", "control", "after")]
            before, control, after = values
            if after is not None:
                places = decimals(max(value for value in values if value is not None))
                gains = (signed_percent(change(after, before)), signed_percent(change(after, control)))
                rows.append([title, str(seed), *(number(value, places) for value in values), *gains])
    columns = ["Tokenizer", "Seed", "gFID before", "control", "after"]
    gained = [Column(f"after / {name}", kind="value") for name in ("before", "control")]
    caption = f"What post-training gains on the same generated {run.latents}"
    return [Table(columns=[*columns, *gained], rows=rows, caption=caption)] if rows else []


def _arm(values: list[float | None], places: int) -> list[str]:
    """The values of an arm seed by seed, and their mean."""
    known = [value for value in values if value is not None]
    return [number(value, places) for value in (*values, sum(known) / len(known) if known else None)]


def _part(fraction: float) -> str:
    """A fraction of the steps, in words where there is one."""
    return {0.25: "a quarter of", 0.5: "half of", 1.0: "all of"}.get(fraction, f"{percent(fraction, 0)} of")


def _change(changes: list[float]) -> Cell:
    """The mean over seeds, and its 95 % interval where there are several."""
    if len(changes) < 2:
        return Cell(signed_percent(changes[0] if changes else None))
    mean, ends = seeds_interval(changes)
    return Cell(signed_percent(mean), " to ".join(map(signed_percent, ends)))
