"""Do min-SNR weights help a small flow-matching generator? On the latents of a finished demo.

    robustok demo --latent continuous --out OUT
    python benchmarks/loss_weights.py OUT [STEPS [SEED ...]]

Trains a small diffusion transformer with and without the weights, at uniform and at logit-normal noise levels, each
from the same first weights on the same batches, and scores as many samples of each from the same noise. Everything goes
to OUT/loss_weights; what is there is not done again.
"""

import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from robustok.api import load_tokenizer
from robustok.data.latent_cache import LatentCache
from robustok.demo.config import Demo
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.scores.feature_stream import feature_stream
from robustok.evaluation.scores.reference import Reference
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.flow_matching import TrainingTimes
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import from_plain
from robustok.runtime.seeding import derive
from robustok.training.generator_training import train_generator
from robustok.training.loop import Loop

STEPS, BATCH, SCORED = 600, 64, 2000
ARMS = {
    "uniform": TrainingTimes(),
    "uniform, min-SNR": TrainingTimes(weighting="min-snr"),
    "logit-normal": TrainingTimes(distribution="logit-normal"),
    "logit-normal, min-SNR": TrainingTimes(distribution="logit-normal", weighting="min-snr"),
}


def gfid(out: Path, arm: str, steps: int, seed: int) -> float:
    """Of a generator that was trained so, guided as in the demo."""
    folder = out / "loss_weights" / f"{arm.replace(', ', '_')}_{steps}_{seed}"
    if not (folder / "score.json").exists():
        config = from_plain(Demo, read_json(out / "config.json"))
        assert isinstance(config.post.sampling, FlowSampling), "min-SNR weighs noise levels, which tokens do not have"
        tokenizer = load_tokenizer(out / "tokenizer")
        cache = LatentCache(out / "latents", tokenizer)
        size = config.generator.generator
        assert isinstance(size, DiffusionTransformer)
        training = replace(
            config.generator,
            generator=replace(size, width=128, depth=4, heads=2),
            loop=Loop(steps=steps, batch_size=BATCH, seed=seed, log_every=50, save_every=0),
            times=ARMS[arm],
            ema_decay=0.99,
        )
        generator: Any = train_generator(training, cache, folder)
        labels, noise = torch.arange(SCORED) % 10, derive(0, "scored")
        drawn = sample_latents(generator, labels, config.post.sampling, seed=noise, batch_size=250)
        stream = feature_stream(decoded(tokenizer, drawn), lite0())
        reference = Reference.load(out / "reference.safetensors")
        write_json(folder / "score.json", frechet_distance(reference.stats, stream.stats))
    return read_json(folder / "score.json")


def main() -> None:
    out, numbers = Path(sys.argv[1]), [int(argument) for argument in sys.argv[2:]]
    steps, seeds = (numbers or [STEPS])[0], numbers[1:] or [0, 1, 2]
    print(f"| noise levels | gFID of {SCORED} samples after {steps} steps, seeds {seeds} | mean | deviation |")
    print("|---|---|---|---|")
    for arm in ARMS:
        values = [gfid(out, arm, steps, seed) for seed in seeds]
        spread = f"{stdev(values):.1f}" if len(values) > 1 else ""
        print(
            f"| {arm} | {', '.join(f'{value:.1f}' for value in values)} | {fmean(values):.1f} | {spread} |", flush=True
        )


if __name__ == "__main__":
    main()
