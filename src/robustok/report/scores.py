"""The scores of a run: Fréchet distances on one scale, the other figures, the cells of pFID."""

from robustok.report.charts import bar
from robustok.report.markup import (
    ALPHA,
    BLANK,
    DELTA,
    TIMES,
    Markup,
    change,
    count,
    decimals,
    duration,
    element,
    interval,
    number,
    percent,
    signed_percent,
)
from robustok.report.run import Run, find
from robustok.report.tables import cell, definitions, head, row, shade, table

DISTANCES = {  # metric: name, what is compared with real images (`Run.latents` in braces), color of its bar
    "fd_floor": ("Floor", "other real images", "floor"),
    "rfid": ("rFID", "reconstructions", "line"),
    "rfid_pfid_images": ("rFID, as pFID", "reconstructions, of pFID's images only", "line"),
    "pfid": ("pFID", "reconstructions from perturbed {latents}", "line"),
    "ifid": ("iFID", "midpoints of neighbouring latents", "line"),
    "gfid_before": ("gFID before", "generated, decoder of main training", "before"),
    "gfid_control": ("gFID control", "same {latents}, decoder trained on clean latents", "control"),
    "gfid_after": ("gFID after", "same {latents}, post-trained decoder", "after"),
}
OF_GENERATED = {  # metric without its _before, _control or _after: name, how to read it
    "precision": ("Precision", "share that look real, higher is better"),
    "recall": ("Recall", "share of the real variety, higher is better"),
    "density": ("Density", "higher is better"),
    "coverage": ("Coverage", "higher is better"),
    "kid": ("KID", "kernel distance, lower is better"),
}


def distances(run: Run) -> Markup | None:
    """The floor, rFID, pFID, iFID, and gFID before, for the control and after, on one scale."""
    records = {metric: record for metric in DISTANCES if (record := run.score(metric))}
    if not records:
        return None
    before, whole = run.value("gfid_before"), records.get("fd_floor", {"value": None, "images": None})
    longest = max(max(r["value"], *(r["interval"] or [])) if r["interval"] else r["value"] for r in records.values())
    places = decimals(longest)
    rows = []
    for metric, record in records.items():
        name, meaning, color = DISTANCES[metric]
        value, bounds = record["value"], record["interval"]
        floor = whole["value"] if record["images"] == whole["images"] else None  # of other numbers it would be another
        moved = change(value, before) if metric in ("gfid_control", "gfid_after") else None
        rows.append(
            row(
                head(name, element("small", meaning.format(latents=run.latents)), scope="row"),
                cell(number(value, places), class_="n value"),
                cell(interval(bounds, places), class_="n quiet"),
                cell(number(value / floor) if floor else BLANK, class_="n quiet wide"),
                element("td", *_change(run, metric, moved, before), class_="n value"),
                element("td", bar(value, longest, color=color, floor=floor, bounds=bounds), class_="wide"),
                class_="key" if metric == "gfid_after" else None,
            )
        )
    heads = row(
        head("Real images against"),
        head("Distance", class_="n"),
        head("95 % interval", class_="n"),
        head(f"{TIMES} floor", class_="n wide"),
        head("Change", element("small", "against before, paired 95 %"), class_="n"),
        head("On one scale", element("small", "from 0; dashed: the floor"), class_="wide"),
    )
    return table("Fréchet distances, lower is better", [heads], rows, "distances")


def _change(run: Run, metric: str, moved: float | None, before: float | None) -> list[Markup | str]:
    """How much a decoder changed gFID of the same tokens or latents, and the interval of that, image by image."""
    if moved is None or not before:
        return [""]
    parts: list[Markup | str] = [signed_percent(moved)]
    paired = run.score("gfid_difference", **{"from": "before", "to": metric.removeprefix("gfid_")})
    if paired is not None and paired["interval"]:
        low, high = (signed_percent(bound / before) for bound in paired["interval"])
        parts.append(element("small", f"{low} to {high}"))
    return parts


def generated(run: Run) -> Markup | None:
    """What else is known of the generated images: each score before, for the control and after."""
    shown = [when for when in ("before", "control", "after") if any(run.score(f"{m}_{when}") for m in OF_GENERATED)]
    rows = []
    for metric, (name, meaning) in OF_GENERATED.items():
        values = [run.value(f"{metric}_{when}") for when in shown]
        known = [abs(value) for value in values if value is not None]
        if known:
            cells = [cell(number(value, 3 if max(known) >= 0.1 else 4)) for value in values]
            rows.append(row(head(name, element("small", meaning), scope="row"), *cells))
    heads = row(head("Generated images"), *(head(when, class_="n") for when in shown))
    return table("Beside gFID: quality and variety", [heads], rows, "dense") if rows else None


def figures(run: Run) -> Markup | None:
    """What is no Fréchet distance."""
    psnr, ssim, use = run.value("psnr"), run.value("ssim"), run.value("codebook_use")
    perplexity, dead, codes = run.value("codebook_perplexity"), run.value("dead_codes"), run.setting("codebook_size")
    seconds, memory = run.value("seconds_total"), run.value("peak_rss_gib")
    dead_codes = f"{count(dead)} dead code{'s' * (dead != 1)}" if dead is not None else "of all codes"
    at_most = f"of at most {count(codes)}" if codes is not None else "effective number of codes"
    return definitions(
        "figures",
        ("PSNR", f"{number(psnr)} dB" if psnr is not None else None, "higher is better"),
        ("SSIM", number(ssim, 3) if ssim is not None else None, "at most 1"),
        ("Codebook use", percent(use) if use is not None else None, dead_codes),
        ("Perplexity", number(perplexity, 0) if perplexity is not None else None, at_most),
        ("Time", duration(seconds) if seconds is not None else None, "stages and scores"),
        ("Memory", f"{number(memory)} GiB" if memory is not None else None, "at its peak"),
    )


def headline(run: Run) -> Markup | None:
    """gFID before and after, in large."""
    before, control, after = (run.value(f"gfid_{name}") for name in ("before", "control", "after"))
    if before is None or after is None:
        return None
    places = decimals(max(before, after))
    beside = f"; the control {signed_percent(change(control, before))}" if control is not None else ""
    return element(
        "p",
        element("span", f"gFID on the same {run.latents}", class_="quiet"),
        element(
            "strong",
            element("span", number(before, places), class_="before"),
            element("span", " → ", class_="quiet"),
            element("span", number(after, places), class_="after"),
        ),
        element("span", f"{signed_percent(change(after, before))} by post-training{beside}", class_="quiet"),
        class_="headline",
    )


def heat_map(run: Run) -> Markup | None:
    """The cells of pFID: a row per alpha, a column per delta or strength, the darker the larger; means at the edges."""
    axis, symbol = ("strength", "s") if run.latents == "latents" else ("delta", DELTA)
    cells = {
        (float(r["protocol"]["alpha"]), float(r["protocol"][axis])): float(r["value"])
        for r in find(run.scores, "pfid_cell")
        if {"alpha", axis} <= r["protocol"].keys()
    }
    if not cells:
        return None
    alphas, steps = sorted({alpha for alpha, _ in cells}, reverse=True), sorted({step for _, step in cells})
    low, high = min(cells.values()), max(cells.values())
    places = decimals(high)

    def shaded(value: float | None) -> Markup:
        share = 0.0 if value is None or high == low else (value - low) / (high - low)
        return cell(number(value, places), class_="heat", style=f"background:{shade(share)}")

    def mean(values: list[float], kind: str = "n quiet") -> Markup:
        return cell(number(sum(values) / len(values), places), class_=kind)

    rows = [
        row(
            head(f"{ALPHA} = {alpha:g}", scope="row"),
            *(shaded(cells.get((alpha, step))) for step in steps),
            mean([v for (a, _), v in cells.items() if a == alpha]),
        )
        for alpha in alphas
    ]
    columns = [mean([v for (_, s), v in cells.items() if s == step]) for step in steps]
    rows.append(row(head("mean", scope="row"), *columns, mean(list(cells.values()), "n value")))
    heads = row(element("td"), *(head(f"{symbol} = {step:g}", class_="n") for step in steps), head("mean", class_="n"))
    return table(f"Fréchet distance in each of the {len(cells)} cells", [heads], rows, "heatmap")
