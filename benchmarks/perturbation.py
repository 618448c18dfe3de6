"""What latent perturbation costs: a table that follows the codebook, against a search in every step.

    python benchmarks/perturbation.py

Two settings: the paper's codebook (4096 codes of width 64, 32 images of 256 tokens) and the demo's whole training
step. Prints milliseconds and ratios; every line is the median of interleaved repetitions in one run.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from robustok.data.images import FashionMNIST
from robustok.presets import demo
from robustok.runtime.seeding import stream
from robustok.tokenizer.perturbation import (
    NeighborTable,
    draw_as_released,
    draw_replacements,
    replace_as_released,
    replace_tokens,
)
from robustok.training.tokenizer_training import TokenizerStage

REPEAT = 7


def milliseconds(work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each piece of work, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(REPEAT):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: median(times) for name, times in taken.items()}


def perturbing(k: int, d: int, b: int, n: int, delta: int, drift: float) -> dict[str, Callable[[], object]]:
    """Ours on a codebook that moves a little before every step, and the released code's way, all images perturbed."""
    generator = stream(0, "benchmark")
    codebook = F.normalize(torch.randn(k, d, generator=generator), dim=1)
    latents = F.normalize(torch.randn(b, n, d, generator=generator), dim=-1)
    tokens = torch.randint(k, (b, n), generator=generator)
    table = NeighborTable()

    def ours() -> None:
        nonlocal codebook
        codebook = F.normalize(codebook + drift * torch.randn(k, d, generator=generator) / d**0.5, dim=1)
        replace_tokens(tokens, table(codebook, delta), draw_replacements(b, n, delta, 1.0, 0.1, generator=generator))

    def released(beta: float) -> None:
        drawn = draw_as_released(b, n, delta, 1.0, beta, generator=generator)
        replace_as_released(latents, tokens, codebook, delta, drawn)

    def rebuilt() -> None:
        NeighborTable()(codebook, delta)

    ours()
    return {"ours": ours, "released": lambda: released(0.1), "rebuilding the table": rebuilt}


def main() -> None:
    torch.manual_seed(0)
    paper = milliseconds(perturbing(4096, 64, 32, 256, 100, drift=1e-3))
    print("K = 4096, d = 64, 32 images of 256 tokens, delta = 100")
    for name, time_taken in paper.items():
        print(f"  {name:22s} {time_taken:8.2f} ms   {paper['released'] / time_taken:6.1f} x faster than released")

    main_training = demo().main
    stage = TokenizerStage(main_training)
    generator = stream(0, "benchmark images")
    b = main_training.loop.batch_size
    real = FashionMNIST("train", main_training.tokenizer.image_size)
    stage.image_loss.set_reference(real.subset(torch.arange(512)))
    images = real.images(torch.arange(b))
    late = int(0.9 * main_training.loop.steps)
    for step in (0, 1, late):
        stage.step(images, step)
    n = stage.model.tokens_per_image
    alpha, delta = main_training.perturbation.at(0.0)
    beta = main_training.perturbation.beta
    z = stage.model.encode(images).float().detach()
    quantized = stage.model.quantize(z)

    def ours() -> None:
        drawn = draw_replacements(b, n, delta, alpha, beta, generator=generator)
        stage.model.quantizer.lookup(
            replace_tokens(quantized.tokens, stage.latents.table(stage.model.codebook, delta), drawn)
        )

    def rebuilt() -> None:
        NeighborTable()(stage.model.codebook, delta)

    taken = milliseconds({"step": lambda: stage.step(images, late), "ours": ours, "rebuilding the table": rebuilt})
    print(f"the demo's step, {b} images of {n} tokens, K = {main_training.tokenizer.quantizer.codebook_size}")
    for name, time_taken in taken.items():
        print(f"  {name:22s} {time_taken:8.2f} ms   {time_taken / taken['step']:7.2%} of a step")


if __name__ == "__main__":
    main()
