"""Which of a run's logged values are drawn, and how."""

from markupsafe import Markup

from robustok.evaluation.scores.metric_names import metric_named
from robustok.report.charts import Series, line_chart, running_mean
from robustok.report.html import part
from robustok.report.run import HELD_OUT, STAGES, Run
from robustok.report.table import Column, Table, TableCell
from robustok.report.text import compact, decimals, number

NAMES = {  # in the order in which they are drawn; others follow under their own names
    "loss": "Loss",
    "l1": "L1",
    "l2": "L2",
    "perceptual": "Perceptual",
    "adversarial": "Adversarial, decoder",
    "discriminator": "Adversarial, discriminator",
    "lecam": "LeCam",
    "logits_real": "Logits of real images",
    "logits_fake": "Logits of decoded images",
    "adversarial_weight": "Adaptive weight",
    "frechet": "Fréchet distance of a batch",
    "codebook": "Codebook and commitment",
    "semantic": "Semantic",
    "gradient_norm": "Gradient norm",
    "discriminator_gradient_norm": "Gradient norm, discriminator",
    "perturbation_alpha": "Tokens replaced, as a pilot showed",
    "perturbation_delta": "By one of so many codes",
    "lr": "Learning rate",
}
USE = {
    "codebook_use": "Codes in use, fraction",
    "codebook_perplexity": "Perplexity of a batch",
    "dead_codes": "Codes revived in a step",
}
ELSEWHERE = {"step", "skipped", "seconds", "images_per_second", "evaluation_share", HELD_OUT, "best_heldout_fd", *USE}
COLORS = {"tokenizer": "line", "generator": "line", "post_training": "after", "control": "control"}


def losses(run: Run) -> list[Markup]:
    """A heading and small charts for main and generator training, and one set for post-training and its control."""
    parts: list[Markup] = []
    for stages in (("tokenizer",), ("generator",), ("post_training", "control")):
        there = [stage for stage in stages if stage in run.metrics]
        logged = {name for stage in there for line in run.metrics[stage] for name in line} - ELSEWHERE
        names = [n for n in NAMES if n in logged] + sorted(logged - NAMES.keys())
        figures = [figure for name in names if (figure := _small(run, there, name))]
        if figures:
            title = " and ".join(STAGES[s] if s == stages[0] else STAGES[s].lower() for s in there)
            steps = " and ".join(dict.fromkeys(_effort(run, s) for s in there))
            parts.append(part("charts", figures, title, steps, _names(there) if len(there) > 1 else {}))
    return parts


def codebook_use(run: Run) -> Markup | None:
    """Codes in use, and how evenly, over main training."""
    figures = [figure for name in USE if (figure := _small(run, ["tokenizer"], name))]
    return part("charts", figures) if figures else None


def held_out(run: Run) -> Markup | None:
    """The check that decides which decoder is kept, with the chosen step ringed, as a chart and as numbers."""
    stages = [s for s in ("post_training", "control") if run.series(s, HELD_OUT)]
    if not stages:
        return None
    points = {stage: run.series(stage, HELD_OUT) for stage in stages}
    chosen = {stage: run.chosen_step(stage) for stage in stages}
    lead = points[stages[0]]
    chart = line_chart(
        [Series(STAGES[s], points[s], COLORS[s]) for s in reversed(stages)],
        title="Held-out Fréchet distance over post-training steps",
        size=(470, 270),
        dots=True,
        level=next((value for step, value in lead if step == 0), None),
        mark=next((p for p in lead if p[0] == chosen[stages[0]]), None),
    )
    places = decimals(max(v for p in points.values() for _, v in p))

    def cell(stage: str, step: float) -> TableCell:
        kept = chosen[stage] == step
        return TableCell("● " * kept + number(dict(points[stage]).get(step), places), kind="key" * kept)

    table = Table(
        columns=[Column("Step", kind="n"), *(STAGES[stage] for stage in stages)],
        rows=[
            [TableCell(f"{step:,.0f}", kind="n"), *(cell(stage, step) for stage in stages)]
            for step in sorted({step for p in points.values() for step, _ in p})
        ],
        caption="Held-out Fréchet distance; ● marks the decoder that was kept",
        kind="dense",
    )
    figure = part("box", "large", [part("legend", _names(stages)), part("figure", "", chart)])
    return part("box", "beside", [figure, table, *([tries] if (tries := _tries(run)) else [])])


def _tries(run: Run) -> Table | None:
    """The short tries by which sigma chose itself."""
    if not run.tries:
        return None
    places = decimals(max((one["distance"] for one in run.tries if one["distance"] is not None), default=0.0))
    return Table(
        columns=[
            Column("Sigma", kind="n"),
            Column("Steps", kind="n"),
            "Held-out distance",
            Column("Seconds", kind="n"),
        ],
        rows=[
            [
                TableCell(f"{one['sigma']:g}", kind="n"),
                TableCell(f"{one['steps']:,}", kind="n"),
                number(one["distance"], places),
                f"{one['seconds']:.0f}",
            ]
            for one in run.tries
        ],
        caption="Short tries that chose sigma: the smallest of those as good as the best",
        kind="dense",
    )


def _small(run: Run, stages: list[str], name: str) -> Markup | None:
    """One logged name over the steps of one or more stages, with where it ended beside its title."""
    series = [
        Series(STAGES[s], points, COLORS[s], exact=name == "lr")
        for s in stages
        if len(points := run.series(s, name)) > 1
    ]
    if not series:
        return None
    title = NAMES.get(name) or USE.get(name) or metric_named(name).label.replace("_", " ")
    ends = [(compact((s.points if s.exact else running_mean(s.points))[-1][1]), s.color) for s in series]
    steps = ", ".join(f"{s.name} {compact(s.points[0][1])} to {compact(s.points[-1][1])}" for s in series)
    return part("figure", title, line_chart(series[::-1], title=f"{title} over training steps: {steps}"), ends)


def _names(stages: list[str]) -> dict[str, str]:
    return {STAGES[stage]: COLORS[stage] for stage in stages}


def _effort(run: Run, stage: str) -> str:
    """Steps taken, and steps skipped, which the log counts from the start."""
    skipped = run.series(stage, "skipped")
    lost = f", {skipped[-1][1]:.0f} skipped" if skipped and skipped[-1][1] else ""
    return f"{run.steps(stage):,} steps{lost}"
