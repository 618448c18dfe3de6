"""Several seeds with and without latent perturbation, side by side."""

from robustok.evaluation.intervals import seeds_interval
from robustok.report.markup import Markup, change, decimals, element, join, number, percent, signed_percent
from robustok.report.run import Run, find
from robustok.report.tables import cell, head, row, table

ARMS = {"unperturbed": "Without perturbation", "perturbed": "With perturbation"}


def ablation(run: Run) -> list[Markup]:
    """With and without latent perturbation, seed by seed; and post-training's gain in each arm and seed."""
    records = [r for r in run.ablation if r["protocol"]["arm"] in ARMS and "seed" in r["protocol"]]
    if not records:
        return []
    seeds = sorted({r["protocol"]["seed"] for r in records})

    def value(metric: str, arm: str, seed: int, share: float | None = None) -> float | None:
        return next(
            (
                r["value"]
                for r in find(records, metric, arm=arm, seed=seed)
                if share is None or r["protocol"].get("generator_share", 1.0) == share
            ),
            None,
        )

    shares = sorted({r["protocol"].get("generator_share", 1.0) for r in find(records, "gfid_before")})
    lines: list[tuple[str, str, str, float | None]] = [
        ("rFID", "", "rfid", None),
        ("rFID", "of pFID's images", "rfid_pfid_images", None),
        ("pFID", "", "pfid", None),
        ("iFID", "", "ifid", None),
    ]
    lines += [("gFID", f"after {_part(s)} the generator steps", "gfid_before", s) for s in shares]
    rows = []
    for name, note, metric, share in lines:
        without, using = ([value(metric, arm, seed, share) for seed in seeds] for arm in ARMS)
        if all(v is None for v in without + using):
            continue
        places = decimals(max(v for v in without + using if v is not None))
        label = head(name, element("small", note) if note else None, scope="row")
        changes = [c for a, b in zip(using, without, strict=True) if (c := change(a, b)) is not None]
        rows.append(row(label, *_arm(without, places), *_arm(using, places), cell(_change(changes), class_="n value")))
    top = row(
        element("td", rowspan=2),
        *(head(title, colspan=len(seeds) + 1, scope="colgroup", class_="n group") for title in ARMS.values()),
        head("Change", element("small", "mean over seeds, 95 % interval"), rowspan=2, class_="n"),
    )
    per_arm = [*(head(f"seed {seed}", class_="n") for seed in seeds), head("mean", class_="n mean")]
    tables = [
        table(
            "The same budget with and without perturbation in main training",
            [top, row(*per_arm, *per_arm)],
            rows,
            "arms",
        )
    ]
    gains = []
    for arm, title in ARMS.items():
        for seed in seeds:
            before, control, after = (value(f"gfid_{x}", arm, seed, 1.0) for x in ("before", "control", "after"))
            if after is None:
                continue
            places = decimals(max(v for v in (before, control, after) if v is not None))
            gains.append(
                row(
                    head(title, scope="row"),
                    cell(str(seed)),
                    *(cell(number(v, places)) for v in (before, control, after)),
                    cell(signed_percent(change(after, before)), class_="n value"),
                    cell(signed_percent(change(after, control)), class_="n value"),
                )
            )
    if gains:
        names = ("Seed", "gFID before", "control", "after", "after / before", "after / control")
        heads = [head("Tokenizer"), *(head(name, class_="n") for name in names)]
        tables.append(table(f"What post-training gains on the same generated {run.latents}", [row(*heads)], gains))
    return tables


def _arm(values: list[float | None], places: int) -> list[Markup]:
    """The values of an arm seed by seed, and their mean."""
    known = [v for v in values if v is not None]
    mean = sum(known) / len(known) if known else None
    return [*(cell(number(v, places), class_="n quiet") for v in values), cell(number(mean, places), class_="n mean")]


def _part(share: float) -> str:
    """A share of the steps, in words where there is one."""
    return {0.25: "a quarter of", 0.5: "half of", 1.0: "all of"}.get(share, f"{percent(share, 0)} of")


def _change(changes: list[float]) -> Markup:
    """The mean over seeds, and its 95 % interval where there are several."""
    if len(changes) < 2:
        return join(signed_percent(changes[0] if changes else None))
    mean, ends = seeds_interval(changes)
    return join(signed_percent(mean), element("small", " to ".join(map(signed_percent, ends))))
