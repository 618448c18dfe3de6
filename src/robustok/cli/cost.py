"""`robustok cost`: what a full-scale run takes, before it is started."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from robustok.cli.options import Command
from robustok.presets import recipes
from robustok.presets.scales import IMAGES
from robustok.presets.tokenizers import robustok_imagenet256
from robustok.training.cost.accelerators import ACCELERATORS, Accelerator, accelerator
from robustok.training.cost.estimate import USABLE, Cluster, Estimate, PeakMemory, Strategy, estimate, largest_batch
from robustok.training.cost.run import JPEG, CountedRun, count_run, storage, strategy_of, work_of
from robustok.training.generator_training import GeneratorTraining
from robustok.training.tuning import DecoderTuning

WHERE = {"ddp": "whole on every GPU", "fsdp": "cut over the GPUs (FSDP2)"}
CHECKED = """\
An estimate; nothing of it was measured on a GPU. Products and bytes are those of the training step itself, counted
without data; in robustok's tests they equal those of real steps on a CPU. Assumed: products take {share:.0%} of the
peak (--share), and {network:g} GB/s go from each GPU to other machines (--network). Left out: checks, previews,
sampling of pairs, waiting for images. benchmarks/training_steps.py measures a GPU."""


def preset(name: str | None = None) -> Any:
    """The run of a name, of any stage."""
    return recipes.recipe(name or "rar_l", {**recipes.TOKENIZERS, **recipes.GENERATORS, **recipes.DECODERS})


def cost(command: Command) -> None:
    """Print the estimate, one column for each number of GPUs."""
    gpu = gpu_of(command)
    clusters = [Cluster(gpu=gpu, gpus=n, share=command.share, network=command.network) for n in command.gpus]
    config = command.over(preset(command.preset))
    stage = config.post if isinstance(config, DecoderTuning) else config
    counted, work, strategy = count_run(stage, robustok_imagenet256().tokenizer), work_of(stage), strategy_of(stage)
    runs = [
        estimate(counted.plain, work, cluster, strategy=strategy, batch_per_gpu=command.batch_per_gpu)
        for cluster in clusters
    ]
    stored = storage(stage, IMAGES)
    if command.json:
        print(json.dumps(records(command, gpu, runs, stored), indent=2))
        return
    step = counted.plain[-1]
    shares = {kind: count / step.flops for kind, count in step.counted.flops.most_common()}
    kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items() if share > 0.005)
    print(
        f"{command.preset} on {command.gpu} ({gpu.bf16:g} TFLOP/s in bf16, {gpu.memory:g} GB), an estimate\n\n"
        f"{step.trained / 1e6:.0f} M trained weights, {WHERE[strategy]}\n"
        f"{step.flops / step.batch / 1e9:.0f} GFLOP an image, forward and backward: {kinds}\n"
        f"{work.steps:,} steps of {work.batch_size:,} images\n"
        + "".join(f"{size / 1e9:,.1f} GB for {name} of ImageNet\n" for name, size in stored.items())
    )
    print(markdown([*rows(runs, counted, clusters, strategy, reads_images=not isinstance(stage, GeneratorTraining))]))
    print("\n" + CHECKED.format(share=command.share, network=command.network))


def gpu_of(command: Command) -> Accelerator:
    """The GPU that was named, with what was said of it; one that is unknown must be described."""
    told = {name: value for name, value in (("bf16", command.peak_tflops), ("memory", command.memory_gb)) if value}
    if len(told) == 2 and command.gpu.lower() not in map(str.lower, ACCELERATORS):
        peak = command.peak_tflops  # of an unknown one the rest is guessed: as an A100's, and links as PCIe 4
        like = ACCELERATORS["A100"]
        shares = {"tf32": peak / 2, "fp32": peak * like.fp32 / like.bf16}
        return Accelerator(**told, **shares, bandwidth=like.bandwidth, link=32, source="")
    return replace(accelerator(command.gpu), **told)


def rows(
    runs: Sequence[Estimate],
    counted: CountedRun,
    clusters: Sequence[Cluster],
    strategy: Strategy,
    *,
    reads_images: bool,
) -> Iterator[list[str]]:
    """The table's rows, the heading first: what it is, then one cell for each number of GPUs."""

    def row(name: str, cells: Iterable[str]) -> list[str]:
        return [name, *cells]

    yield row("GPUs", (f"{run.gpus:,}" for run in runs))
    yield row("images at once on a GPU x optim.accumulate", (f"{run.batch_per_gpu} x {run.accumulate}" for run in runs))
    for name in dict.fromkeys(name for run in runs for name, size in run.memory.items() if size > 5e6):
        yield row(f"GB for {name}", (f"{run.memory.get(name, 0) / 1e9:.2f}" for run in runs))
    room = USABLE * clusters[0].gpu.memory
    yield row(f"GB in all, of {room:.0f}", (f"{in_gb(run):.1f}{'' if run.fits else ', too many'}" for run in runs))
    for name, steps in (("images that fit at once", counted.plain), ("with checkpointing", counted.checkpointed)):
        peak = PeakMemory.through(*steps)
        yield row(name, (f"{largest_batch(steps[-1], peak, cluster, strategy):,}" for cluster in clusters))
    yield row("ms of products in a step", (f"{1e3 * run.seconds_computing:.0f}" for run in runs))
    yield row("ms to move bytes, were nothing fused", (f"{1e3 * run.seconds_moving:.0f}" for run in runs))
    exchanges = "ms of exchanges (of them not hidden)"
    yield row(exchanges, (f"{1e3 * r.seconds_exchanging:.1f} ({1e3 * r.seconds_exposed:.1f})" for r in runs))
    yield row("GB that a GPU sends in a step", (f"{run.traffic / 1e9:.2f}" for run in runs))
    yield row("images/s", (f"{run.images_per_second:,.0f}" for run in runs))
    if reads_images:
        yield row("GB/s of JPEG to read", (f"{run.images_per_second * JPEG / 1e9:.2f}" for run in runs))
    yield row("hours", (f"{run.hours:,.1f}" for run in runs))
    yield row("GPU-hours", (f"{run.gpu_hours:,.0f}" for run in runs))
    saves = "GB of a save to go on from (of a model)"
    yield row(saves, (f"{run.checkpoint / 1e9:.1f} ({run.model / 1e9:.1f})" for run in runs))


def in_gb(run: Estimate) -> float:
    """Memory of a GPU."""
    return sum(run.memory.values()) / 1e9


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])])


def records(command: Command, gpu: Accelerator, runs: Sequence[Estimate], stored: dict[str, int]) -> dict[str, Any]:
    """Everything as JSON values, and what it rests on."""
    return {
        "preset": command.preset,
        "gpu": {"name": command.gpu, **vars(gpu)},
        "is": "an estimate",
        "measured_on_a_gpu": False,
        "assumed": {"share_of_peak": command.share, "network_gb_s": command.network, "usable_memory": USABLE},
        "storage": stored,
        "runs": [run.plain() for run in runs],
    }
