"""How fast robustok is, as ratios against the alternative in the same run, and how its times grow.

    python benchmarks/speed.py                           # on a CPU that does nothing else: half an hour
    python benchmarks/speed.py --quick                   # the same rows at toy size, in seconds: shows that they run
    python benchmarks/speed.py --only sampling           # rows whose name holds this
    python benchmarks/speed.py --only operators          # where the time of a step goes
    python benchmarks/speed.py --peer-checkout DIR       # also RAR's loop, of bytedance/1d-tokenizer
    python benchmarks/speed.py --only fid --fidelity-checkout DIR  # beside toshas/torch-fidelity, where not installed

Prints three Markdown tables and what the machine is. The two of a row take turns, and the shortest time of each counts:
what else runs on the machine only adds. With one thread (OMP_NUM_THREADS=1) it is that thread's own time.
"""

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import fid_pipeline
import operators
import torch
import training_steps
from data_loading import SIZE, jpeg
from frechet_distance import by_matrix_root, fresh
from perturbation import perturbing
from PIL import Image
from rar_loop import GUIDANCE, peer_loop, plain_loop
from torch import Tensor, nn

from robustok.data import ImageFolder
from robustok.data.decoding import center_crop
from robustok.evaluation.features.spaces.inception import WEIGHTS, inception_space
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens, uniforms
from robustok.report.table import Column, Table
from robustok.runtime.threads import Threads, cores
from robustok.training.optim import is_bf16
from robustok.training.performance import Performance

REPEAT = 3
Work = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """How much there is to do in each row."""

    width: int = 512  # of the generator: 40 M parameters
    depth: int = 8
    tokens: int = 256
    batches: tuple[int, ...] = (1, 16, 64)  # images sampled at once
    growing_tokens: tuple[int, ...] = (64, 256, 1024)
    growing_batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    codebooks: tuple[int, ...] = (1024, 4096, 16384, 65536)
    images: tuple[int, ...] = (1000, 10_000, 50_000)  # of statistics
    features: int = 2048
    jpegs: int = 256
    pictures: int = 64  # of each set that a FID is of
    steps: Callable[[], list[training_steps.Case]] = training_steps.demo
    step_batch: int | None = None  # as the case says
    watched: float = 12.0  # seconds of steps beside busy processes, and as many before, until threads are chosen
    backend: str = "inductor"  # of compiled sampling


QUICK = Sizes(
    64,
    1,
    16,
    (2,),
    (4, 16),
    (1, 4),
    (64, 256),
    (100, 200),
    8,
    4,
    2,
    lambda: training_steps.full("-smoke"),
    step_batch=8,
    watched=0.2,
    backend="eager",
)


@dataclass(frozen=True)
class Row:
    """Two ways to the same thing."""

    name: str
    other: str  # what it is compared with
    seconds: float
    other_seconds: float
    share: str = ""  # of what the machine's matrix products, and its memory, allow


def shortest(*works: Work) -> list[float]:
    """Seconds of each, the least of some turns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf")] * len(works)
    for _ in range(REPEAT):
        for i, work in enumerate(works):
            began = clock()
            work()
            best[i] = min(best[i], clock() - began)
    return best


def in_bf16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


@cache
def peak(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / min(shortest(lambda: a @ b)[0] for _ in range(4))


@cache
def bandwidth() -> float:
    """Bytes/s at which numbers are read that no cache holds."""
    numbers = torch.ones(2**27)
    return 4 * len(numbers) / min(shortest(lambda: numbers.sum())[0] for _ in range(4))


def rar(sizes: Sizes, tokens: int = 0) -> AutoregressiveModel:
    """A frozen RAR of random weights."""
    heads, n = max(1, sizes.width // 64), tokens or sizes.tokens
    config = Autoregressive(
        codebook_size=1024, tokens=n, classes=1000, width=sizes.width, depth=sizes.depth, heads=heads, modulated=True
    )
    return AutoregressiveModel(config).eval().requires_grad_(False)


def sampler(model: AutoregressiveModel, batch: int, bf16: bool, sigma: float = 0.0, compile: str | None = None) -> Work:
    """Samples of a batch, or pairs that keep a fraction sigma."""
    labels, n = torch.arange(batch) * 7 % 1000, model.tokens_per_image
    keep = (uniforms(0, [0], n) < sigma).expand(batch, n)
    how: dict[str, Any] = {"keep": keep, "tokens": torch.zeros(batch, n).long()} if sigma else {}
    how |= {"batch_size": batch, "compile": compile}

    def work() -> Tensor:
        with in_bf16() if bf16 else nullcontext():
            return sample_tokens(model, labels, Sampling(guidance=GUIDANCE), seed=0, **how)

    return work


def weights(model: AutoregressiveModel) -> tuple[int, int]:
    """Weights in linear maps that a token needs, and in those of modulations, which a label needs once."""
    maps = {name: part.weight.numel() for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    modulations = sum(count for name, count in maps.items() if "modulation" in name)
    return sum(maps.values()) - modulations, modulations


def products(model: AutoregressiveModel, batch: int) -> float:
    """FLOPs in linear maps of a batch of guided samples."""
    of_tokens, modulations = weights(model)
    return 2.0 * (2 * batch * of_tokens + (batch + 1) * modulations) * model.tokens_per_image


def traffic(model: AutoregressiveModel, batch: int, bf16: bool) -> float:
    """Bytes that a batch of guided samples reads at the least: weights once a token, and keys and values so far."""
    n, c = model.tokens_per_image, model.config
    held = 2 * batch * 2 * c.depth * c.width * (n + 1) / 2
    return n * (weights(model)[0] + held) * (2 if bf16 else 4)


def sampling(sizes: Sizes, peer: str) -> Iterator[Row]:
    model, read = rar(sizes), bandwidth()
    limits = {False: peak(torch.float32), True: peak(torch.bfloat16)}
    for batch in sizes.batches:
        labels = torch.arange(batch) * 7 % 1000
        others = {"plain loop, float32": lambda labels=labels: plain_loop(model, labels)}
        if peer:
            others["RAR's own loop, float32"] = peer_loop(peer, model, labels)
        ours = [sampler(model, batch, bf16) for bf16 in (False, True)]
        *taken, whole, half = shortest(*others.values(), *ours)
        for other, seconds in zip(others, taken, strict=True):
            for bf16, mine in ((False, whole), (True, half)):
                limit = products(model, batch) / limits[bf16], traffic(model, batch, bf16) / read
                share = ", ".join(f"{least / mine:.0%}" for least in limit)
                name = f"sampling, {batch} images, {'bfloat16' if bf16 else 'float32'}"
                yield Row(name, other, mine, seconds, share)


def compiled(sizes: Sizes, peer: str) -> Iterator[Row]:
    """Sampling by a compiled step, and the first batch, in which it is compiled, here and not by other processes."""
    import torch._inductor.config

    def first_of(work: Work) -> float:
        began = spent()
        work()
        return spent() - began

    model, batch = rar(sizes), sizes.batches[len(sizes.batches) // 2]
    with torch._inductor.config.patch(compile_threads=1):
        for bf16 in (False, True):
            works = [sampler(model, batch, bf16, compile=backend) for backend in (None, sizes.backend)]
            name, first = f"{batch} images, {'bfloat16' if bf16 else 'float32'}", first_of(works[1])
            other, ours = shortest(*works)
            yield Row(f"compiled sampling, {name}", "as it is written", ours, other)
            yield Row(f"compiled sampling, {name}, the first batch", "as it is written", first, other)


def spent() -> float:
    """Seconds now: with one thread, of this process and those that it waited for, as a C++ compiler."""
    return sum(os.times()[:4]) if torch.get_num_threads() == 1 else time.perf_counter()


def pairs(sizes: Sizes, peer: str) -> Iterator[Row]:
    model, sigmas = rar(sizes), (0.9, 0.7, 0.5, 0.0)
    for batch in sizes.batches:
        for bf16 in (False, True):
            full, *taken = shortest(*(sampler(model, batch, bf16, sigma) for sigma in (0.0, *sigmas)))
            for sigma, seconds in zip(sigmas, taken, strict=True):
                kind = "bfloat16" if bf16 else "float32"
                yield Row(f"pairs, sigma {sigma:g}, {batch} images, {kind}", "a full sample", seconds, full)


def one_step(case: training_steps.Case, how: training_steps.How, sizes: Sizes) -> Work:
    """A training step as late as everything takes part, once it has been taken a first time."""
    batch, last = sizes.step_batch or case.config.loop.batch_size, case.config.loop.steps - 1
    case = replace(case, config=how.of(case.config))
    stage, images = training_steps.ready(case, torch.device("cpu"), batch)
    stage.step(images, last)
    return lambda: stage.step(images, last)


def steps(sizes: Sizes, peer: str) -> Iterator[Row]:
    for case in sizes.steps():
        works = [one_step(case, how, sizes) for how in (training_steps.EAGER, training_steps.PLAIN)]
        other, ours = shortest(*works)
        yield Row(f"a step of {case.name}", "the same, float32", ours, other)


def beside(sizes: Sizes, peer: str) -> Iterator[Row]:
    """A step beside processes that never rest, with the threads that a training chooses there, on the clock."""
    case = sizes.steps()[0]
    step = one_step(case, training_steps.PLAIN, sizes)

    def seconds(neighbors: int) -> float:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbors)]
        try:
            with Threads() as threads:
                for _ in range(2):  # the second time counts
                    began, steps = time.perf_counter(), 0
                    while steps == 0 or time.perf_counter() < began + sizes.watched:
                        step()
                        threads.after_step(lambda words: print(words, file=sys.stderr))
                        steps += 1
                return (time.perf_counter() - began) / steps
        finally:
            for process in busy:
                process.kill()
                process.wait()

    alone = seconds(0)
    for neighbors in (1, 2):
        name = f"a step of {case.name}, beside {neighbors} busy process{'es' * (neighbors > 1)}"
        yield Row(name, "the same, alone", seconds(neighbors), alone)


def scoring(sizes: Sizes, peer: str) -> Iterator[Row]:
    a, b = (FeatureStats.of(torch.randn(2 * sizes.features, sizes.features)) for _ in range(2))
    other, ours = shortest(lambda: by_matrix_root(a, b), lambda: frechet_distance(fresh(a), fresh(b)))
    yield Row(f"Frechet distance, {sizes.features} features", "scipy's sqrtm", ours, other)


def fid(sizes: Sizes, peer: str) -> Iterator[Row]:
    """Images to features, and two sets of images to their distance, with the same weights in both."""
    fidelity = fid_pipeline.peer()
    if fidelity is None:
        print("the FID pipeline: torch-fidelity is not here; see --fidelity-checkout", file=sys.stderr)
        return
    generated, real = (fid_pipeline.Pictures(sizes.pictures, SIZE, seed) for seed in (0, 1))
    with tempfile.TemporaryDirectory(prefix="robustok-") as place:
        weights = WEIGHTS.located() or fid_pipeline.random_weights(fidelity, Path(place) / "weights.pth")
        network, extract, pixels = fid_pipeline.peers_network(fidelity, weights), inception_space(weights), real.pixels
        theirs, ours = fid_pipeline.peers_features(network, pixels), fid_pipeline.our_features(extract, pixels)
        apart = fid_pipeline.check_agreement(ours, theirs)
        print(f"features of both agree: at most {apart:.1e} of the largest apart", file=sys.stderr)
        features = shortest(
            lambda: fid_pipeline.peers_features(network, pixels), lambda: fid_pipeline.our_features(extract, pixels)
        )
        found: dict[str, float] = {}
        whole = shortest(
            lambda: found.update(theirs=fid_pipeline.peers_distance(fidelity, weights, generated, real)),
            lambda: found.update(ours=fid_pipeline.our_distance(weights, generated, real)),
        )
    fid_pipeline.check_distance(**found)
    print(f"FID {found['ours']:.6g}, of torch-fidelity {found['theirs']:.6g}", file=sys.stderr)
    for name, count, (other, mine) in (
        ("Inception's features", len(pixels), features),
        ("FID of two sets, all of it", 2 * len(pixels), whole),
    ):
        rates = f"{count / mine:.1f} images/s against {count / other:.1f}"
        yield Row(f"{name}, {count} images of {SIZE} pixels, {rates}", "torch-fidelity", mine, other)


def reading(sizes: Sizes, peer: str) -> Iterator[Row]:
    files = [jpeg(seed) for seed in range(sizes.jpegs)]
    with tempfile.TemporaryDirectory(prefix="robustok-") as place:
        (Path(place) / "class").mkdir()
        for number, data in enumerate(files):
            (Path(place) / "class" / f"{number:05d}.jpg").write_bytes(data)
        images = ImageFolder(place, SIZE)

        def with_pillow() -> None:
            for data in files:
                center_crop(Image.open(io.BytesIO(data)).convert("RGB"), SIZE)

        other, ours = shortest(with_pillow, lambda: images.images(torch.arange(len(files))))
    yield Row(f"{len(files)} JPEGs of 500 x 375 to {SIZE} pixels", "Pillow, one by one", ours, other)


def perturbation(sizes: Sizes, peer: str) -> Iterator[Row]:
    for k in sizes.codebooks[:2]:
        works = perturbing(k, 64, 32, sizes.tokens, min(100, k // 2), drift=1e-3)
        ours, other = shortest(works["ours"], works["released"])
        yield Row(f"perturbation, K = {k}", "the released code's way", ours, other)


ROWS = {f.__name__: f for f in (sampling, compiled, pairs, steps, beside, scoring, fid, reading, perturbation)}


def growth(sizes: Sizes) -> Iterator[tuple[str, int, float]]:
    """What grows, its size, and seconds."""
    batch = sizes.growing_batches[len(sizes.growing_batches) // 2]
    for tokens in sizes.growing_tokens:
        yield f"sampling, {batch} images, of tokens", tokens, shortest(sampler(rar(sizes, tokens), batch, True))[0]
    for count in sizes.growing_batches:
        yield f"sampling, {sizes.tokens} tokens, of images", count, shortest(sampler(rar(sizes), count, True))[0]
    for k in sizes.codebooks:
        yield "perturbation, of codes", k, shortest(perturbing(k, 64, 32, sizes.tokens, 32, drift=1e-3)["ours"])[0]
    for count in sizes.images:
        features = torch.randn(count, sizes.features // 4)
        yield "statistics, of images", count, shortest(lambda f=features: FeatureStats.of(f))[0]


def watched(sizes: Sizes) -> Iterator[tuple[str, Work]]:
    """What operators are told of: a step of each stage in the precision of this machine, and sampling."""
    batch, how = sizes.batches[len(sizes.batches) // 2], training_steps.How("as it runs", "auto", Performance())
    for case in sizes.steps():
        yield f"a step of {case.name}", one_step(case, how, sizes)
    yield f"sampling, {batch} images", sampler(rar(sizes), batch, is_bf16("cpu", "auto"))


def machine() -> str:
    """What it runs on, and the limit that its matrix products set."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    gflops = ", ".join(f"{peak(t) / 1e9:.0f} in {str(t).split('.')[1]}" for t in (torch.float32, torch.bfloat16))
    return (
        f"{name}, {cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"GFLOP/s of a matrix product: {gflops}; GB/s read from memory: {bandwidth() / 1e9:.0f}"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--peer-checkout", default="", help="a checkout of bytedance/1d-tokenizer")
    parser.add_argument("--fidelity-checkout", default="", help="a checkout of toshas/torch-fidelity")
    given = parser.parse_args(words)
    sys.path[:0] = [given.fidelity_checkout] if given.fidelity_checkout else []
    torch.manual_seed(0)
    sizes = QUICK if given.quick else Sizes()
    print(f"{machine()}\n")
    rows = []
    for name, make in ROWS.items():
        for row in make(sizes, given.peer_checkout) if given.only in name else ():
            times = [f"{1000 * row.seconds:,.1f}", f"{1000 * row.other_seconds:,.1f}"]
            rows.append([row.name, row.other, *times, f"{row.other_seconds / row.seconds:.2f}", row.share])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["ms", "ms of that", "times as fast", "share of the limit of products, of memory"]
    print(Table(columns=["what", Column("against", left=True), *heads], rows=rows).to_markdown())
    if given.only in "growth":
        found, first = list(growth(sizes)), dict[str, float]()
        grown = [[f"{w} {n}", f"{1e3 * s:,.1f}", f"{s / n / first.setdefault(w, s / n):.2f}"] for w, n, s in found]
        print(Table(columns=["what", "ms", "time for each, smallest = 1"], rows=grown).to_markdown(), end="")
    if given.only in "operators":
        print(f"\n{operators.table(watched(sizes)).to_markdown()}", end="")


if __name__ == "__main__":
    main()
