"""How fast the full-scale training steps are: images/s, memory and share of the card's peak, beside eager float32.

    python benchmarks/training_steps.py            # on a GPU: 10 to 20 minutes, most of it torch.compile
    python benchmarks/training_steps.py --demo     # the demo's stages, on a CPU in about a minute
    python benchmarks/training_steps.py --smoke    # the same path on tiny twins, on a CPU in seconds

Prints one Markdown table. Steps are real ones: whole stages with all losses, on random images and weights, as late in
training as everything takes part. The peak is that of a matrix product in bfloat16 on the same card (float32 on a CPU),
in the same run. FLOPs are counted (`training_cost.py`); "GB held" stays in memory from step to step, by arithmetic;
what was measured beyond it are activations. The batch is the largest that fits, guessed from two small ones.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from training_cost import Step, Training, count, stage_of, without_files

from robustok import presets
from robustok.presets.recipes import DECODERS, GENERATORS, TOKENIZERS, recipe
from robustok.report.table import Column, Table
from robustok.tokenizer.tokenizer import TokenizerConfig
from robustok.training.performance import Performance

ROOM = 0.92  # of a card's memory that the first try is predicted to take
NEAR = 0.06  # the search ends when the largest batch that fits is known up to this share
TRIES = 6
SMALL = 8, 16  # images of two steps that a straight line of memory is laid through


@dataclass(frozen=True)
class Case:
    """A stage to measure; `tokenizer` is the one whose decoder is tuned."""

    name: str
    config: Training
    tokenizer: TokenizerConfig | None = None


@dataclass(frozen=True)
class How:
    """A way to compute the same step."""

    name: str
    precision: str
    performance: Performance

    def of(self, config: Any) -> Any:
        return replace(config, precision=self.precision, performance=self.performance)


@dataclass(frozen=True)
class Measured:
    """What a step took."""

    batch: int
    seconds: float
    memory: float  # bytes at most, 0 where nobody counts them


EAGER = How("eager, float32", "fp32", Performance())
FAST = How("compiled, bfloat16, TF32", "bf16", Performance(compile="inductor", tf32=True))
PLAIN = How("eager, bfloat16", "bf16", Performance())


def full(size: str = "") -> list[Case]:
    """The three steps that decide what full scale costs, or with "-smoke" their twins."""
    main = recipe(f"robustok_imagenet256{size}", TOKENIZERS)
    return [
        Case("RobusTok, tokenizer", main),
        Case("RAR-L, generator", recipe(f"rar_l{size}", GENERATORS)),
        Case("RobusTok, post-training", recipe(f"post_robustok{size}", DECODERS), main.tokenizer),
    ]


def demo() -> list[Case]:
    """The demo's stages, but for the Frechet term, which wants real images."""
    run = presets.demo()
    main, post = (replace(part, objective=replace(part.objective, frechet=0.0)) for part in (run.main, run.post))
    return [
        Case("demo, tokenizer", main),
        Case("demo, generator", run.generator),
        Case("demo, post-training", post, main.tokenizer),
    ]


def ready(case: Case, device: torch.device, batch: int) -> tuple[Any, Any]:
    """The stage and a batch of noise for it."""
    config = without_files(replace(case.config, loop=replace(case.config.loop, batch_size=batch)))
    if hasattr(config, "start"):
        config = replace(config, start=None)
    return stage_of(config, case.tokenizer, device, batch)


def measure(case: Case, how: How, batch: int, device: torch.device, steps: int) -> Measured:
    """The median of some steps after as many to warm up. Raises torch.OutOfMemoryError where they do not fit."""
    stage, images = ready(replace(case, config=how.of(case.config)), device, batch)
    last = case.config.loop.steps - 1
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with how.performance.tf32_matmul():
        for _ in range(max(2, steps // 2)):
            stage.step(images, last)
        taken = [seconds_of(lambda: stage.step(images, last), device) for _ in range(steps)]
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Measured(batch, median(taken), memory)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time of some work by the card's own clock; on a CPU that of one thread, in which nobody else's work counts."""
    if device.type != "cuda":
        began = time.process_time()
        work()
        return time.process_time() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


def measured_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product, the best of ten: in bfloat16 on a card, in float32 on a CPU."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(10))


def largest(try_: Callable[[int], Measured | None], guess: int, most: int) -> Measured:
    """The largest batch that fits, up to `NEAR`, beginning with a guess. Raises ValueError where not even one does."""
    best, too_many, batch = None, most + 1, min(max(1, guess), most)
    for _ in range(TRIES):
        found = try_(batch)
        if found is None:
            too_many = batch
            batch = batch // 2 if best is None else (best.batch + batch) // 2
        else:
            best = found
            batch = min(max(batch + 1, batch * 5 // 4), (batch + too_many) // 2)
        least = best.batch if best else 0
        if batch <= least or batch < 1 or too_many - least <= max(1, NEAR * least):
            break
    if best is None:
        raise ValueError("not even the smallest batch that was tried fits into the memory of this card")
    return best


def attempt(case: Case, how: How, batch: int, device: torch.device, steps: int) -> Measured | None:
    """None where memory runs out; whatever was allocated is given back before the next try."""
    try:
        return measure(case, how, batch, device, steps)
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.compiler.reset()
            torch.cuda.empty_cache()


def table(cases: list[Case], ways: list[How], device: torch.device, batch: int | None, steps: int) -> Table:
    """A row for each case and way."""
    peak = measured_peak(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one thread of a CPU"
    product = "bfloat16" if device.type == "cuda" else "float32"
    rows = []
    for case in cases:
        step = count(case.config, case.tokenizer)
        for how in ways:
            found = of_case(case, how, device, batch, steps)
            rows.append(row(case, how, found, step, peak))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    columns = ["images", "ms", "images/s", "GB", "GB held", "GFLOP an image", "share of the peak"]
    note = f"{name}, torch {torch.__version__}: {peak / 1e12:.3g} TFLOP/s in a matrix product of {product}"
    return Table(columns=["step", Column("how", left=True), *columns], rows=rows, notes=[note])


def of_case(case: Case, how: How, device: torch.device, batch: int | None, steps: int) -> Measured:
    """At the largest batch that fits on a card; on a CPU, and where a batch is given, at that."""
    if batch is not None or device.type != "cuda":
        return measure(case, how, batch or case.config.loop.batch_size, device, steps)
    few, more = (attempt(case, how, b, device, 1) for b in SMALL)
    guess = SMALL[0] // 2
    if few and more:
        room = ROOM * torch.cuda.get_device_properties(device).total_memory - few.memory
        guess = few.batch + int(room * (more.batch - few.batch) / max(more.memory - few.memory, 1))
    return largest(lambda b: attempt(case, how, b, device, steps), guess, case.config.loop.batch_size)


def row(case: Case, how: How, found: Measured, step: Step, peak: float) -> list[str]:
    """What a way came to."""
    speed, held = found.batch / found.seconds, (sum(step.held.values()) + step.frozen) / 1e9
    memory = f"{found.memory / 1e9:.1f}" if found.memory else ""
    cells = [case.name, how.name, f"{found.batch}", f"{1e3 * found.seconds:.1f}", f"{speed:,.0f}", memory]
    return [*cells, f"{held:.2f}", f"{step.flops / 1e9:.2f}", f"{step.flops * speed / peak:.1%}"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny twins on the CPU")
    parser.add_argument("--demo", action="store_true", help="the demo's stages on the CPU")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--batch", type=int, help="images at once; the largest that fits unless given")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    options = parser.parse_args(words)
    small = options.smoke or options.demo
    if not small and not torch.cuda.is_available():
        parser.error("there is no GPU here; --smoke tries the path on a CPU, --demo measures the demo's stages")
    if small:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = full("-smoke") if options.smoke else demo() if options.demo else full()
    cases = [case for case in cases if options.only in case.name]
    ways = [EAGER, PLAIN] if options.smoke else [EAGER] if options.demo else [EAGER, PLAIN, FAST]
    device = torch.device("cpu" if small else "cuda")
    print(table(cases, ways, device, options.batch, options.steps).to_markdown(), end="")


if __name__ == "__main__":
    main()
