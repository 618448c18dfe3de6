"""Every stage for some steps in float64, by one process alone and by two together: what the parallel tests run.

In float64 because Adam turns the rounding of a gradient that is zero in theory into a step of full length.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tests.training.tiny import AUTOENCODER, GENERATOR, MAIN, MASKED, POST, TWO_PHASES, images, tokenizer
from torch import Tensor, nn

from robustok.backbones.lite import POOLED
from robustok.data.loading import training_batch
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.losses.perceptual import Perceptual
from robustok.runtime.checkpoint import load_resume, save_resume
from robustok.runtime.distributed import is_main, mean, world_size
from robustok.runtime.writing import snapshot
from robustok.shapes import to_images
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.latent_perturbation import LatentMixing, LatentNoise
from robustok.tokenizer.quantizer import BSQ, EMAVQ, LFQ, VQ, ResidualVQ
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import GeneratorStage, GeneratorTraining
from robustok.training.micro_batch import micro_batches_of, own_rows
from robustok.training.performance import Performance
from robustok.training.tokenizer_training import TokenizerStage

PART = Conv(stem=8, channels=(16, 32), blocks=1, attention=False)  # 4 tokens for an image of 32 px
STEPS, HALF = 10, 5
TOGETHER = 2  # processes

Batches = Callable[[int, Tensor], Any]  # from a step and rows to those rows of its batch


def shortened(config: Any, batch: int, count: int) -> Any:
    loop = replace(config.loop, steps=STEPS, batch_size=batch)
    return replace(config, loop=loop, optim=replace(config.optim, micro_batches=count), precision="fp32")


class Small(nn.Module):
    """In the place of Lite0, whose convolutions by channel take a second a batch in float64."""

    class Maps(NamedTuple):
        stages: tuple[Tensor, ...]
        pooled: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 10, 2, 2)]).requires_grad_(False)

    def forward(self, images: Tensor, stages: int = 2) -> Maps:
        first = self.layers[0](images).relu()
        second = self.layers[1](first).relu()
        return self.Maps((first, second), nn.functional.pad(second.flatten(1), (0, POOLED - second[0].numel())))


def main(quantizer: Any, batch: int, count: int, perturbation: Any = None) -> tuple[Any, Batches]:
    """With everything on: adversary and augmentation, Frechet term, semantic term, perturbation."""
    config = replace(
        MAIN,
        perturbation=perturbation or MAIN.perturbation,
        objective=replace(MAIN.objective, frechet=0.1),
        tokenizer=replace(MAIN.tokenizer, encoder=PART, decoder=PART, quantizer=quantizer),
    )
    stage = TokenizerStage(shortened(config, batch, count))
    stage.latents.teacher, stage.image_loss.perceptual = Small(), Perceptual(Small(), 2)
    stage.latents.table.tolerance = 0.005  # so that it is built anew some times
    stage.set_reference(images())
    return stage, lambda step, rows: training_batch(images(), batch, 0, step, rows)


def autoencoder(perturbation: Any, batch: int, count: int) -> tuple[Any, Batches]:
    config = replace(
        AUTOENCODER,
        perturbation=perturbation,
        tokenizer=replace(AUTOENCODER.tokenizer, encoder=PART, decoder=PART),
        mask_ratio_max=0.0,
    )
    stage = TokenizerStage(shortened(config, batch, count))
    stage.image_loss.perceptual = Perceptual(Small(), 2)
    return stage, lambda step, rows: training_batch(images(), batch, 0, step, rows)


def generator(config: GeneratorTraining, batch: int, count: int) -> tuple[Any, Batches]:
    stage = GeneratorStage(shortened(config, batch, count))

    def batches(step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(step)
        labels = torch.randint(10, (batch,), generator=random)
        if isinstance(config.generator, DiffusionTransformer):
            return torch.randn(batch, 16, 4, generator=random)[rows], labels[rows]
        return torch.randint(32, (batch, 16), generator=random)[rows], labels[rows]

    return stage, batches


def post(batch: int, count: int) -> tuple[Any, Batches]:
    stage = DecoderStage(shortened(POST, batch, count), tokenizer())
    stage.image_loss.perceptual = Perceptual(Small(), 2)
    stage.image_loss.set_reference(images())

    def batches(step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(32, (batch, 16), generator=torch.Generator().manual_seed(step))
        return tokens[rows], training_batch(images(), batch, 0, step, rows)

    return stage, batches


AR = replace(GENERATOR, generator=replace(GENERATOR.generator, modulated=True, label_dropout=0.5))
DIT = replace(GENERATOR, generator=DiffusionTransformer(tokens=16, channels=4, classes=10, width=64, depth=2, heads=1))
CASES = {
    "tokenizer, vq": partial(main, VQ(codebook_size=16, width=8, revive_after=2), 12, 1),
    "tokenizer, vq, uneven parts": partial(main, VQ(codebook_size=40, width=8, revive_after=2), 13, 2),
    "tokenizer, few perturbed": partial(
        main, VQ(codebook_size=16, width=8), 12, 1, replace(MAIN.perturbation, beta=1 / 12)
    ),
    "tokenizer, lfq": partial(main, LFQ(bits=6, group=3), 12, 2),
    "tokenizer, bsq, uneven parts": partial(main, BSQ(bits=6, group=2), 13, 1),
    "tokenizer, averaged codes, uneven parts": partial(main, EMAVQ(codebook_size=40, width=8, revive_after=2), 13, 2),
    "tokenizer, residual, averaged codes": partial(
        main, ResidualVQ(codebook_size=16, width=8, levels=2, shared=False, decay=0.9, revive_after=2), 12, 1
    ),
    "tokenizer, two phases, uneven parts": partial(main, VQ(codebook_size=16, width=8), 13, 2, TWO_PHASES),
    "autoencoder": partial(autoencoder, LatentNoise(beta=0.5), 12, 1),
    "autoencoder, uneven parts": partial(autoencoder, LatentMixing(beta=0.5), 13, 2),
    "autoregressive": partial(generator, AR, 12, 1),
    "autoregressive, uneven parts": partial(generator, AR, 13, 2),
    "masked, uneven parts": partial(generator, MASKED, 13, 2),
    "masked, sharded": partial(generator, replace(MASKED, shard=True), 12, 1),
    "diffusion": partial(generator, DIT, 12, 1),
    "diffusion, uneven parts": partial(generator, DIT, 13, 2),
    "autoregressive, sharded": partial(
        generator, replace(AR, shard=True, performance=Performance(checkpointing=True)), 12, 1
    ),
    "diffusion, sharded, uneven parts": partial(generator, replace(DIT, shard=True), 13, 2),
    "post-training": partial(post, 12, 1),
    "post-training, uneven parts": partial(post, 13, 2),
}
RESUMED = (
    "tokenizer, vq",
    "tokenizer, few perturbed",
    "tokenizer, two phases, uneven parts",
    "autoregressive, sharded",
    "post-training",
)


class Trained(NamedTuple):
    """What came of a case: terms of every step, states on one process only."""

    terms: list[dict[str, Tensor]]
    half: Any  # the stage's state after half of the steps
    state: Any  # and at the end
    rebuilt: int  # how often the neighbor table was built


def train(case: str, steps: range, start: Any = None) -> Trained:
    """Some steps of a case, from the start or from a state."""
    torch.manual_seed(0)
    stage, batches = CASES[case]()
    if start is not None:
        stage.load_state_dict(start)
    config = stage.config
    parts = micro_batches_of(config.loop.batch_size, config.optim.micro_batches)
    rows, told, half = own_rows(parts).own, [], None
    for step in steps:
        terms = stage.step(batches(step, rows), step)
        told.append({name: mean(term.detach().double()) for name, term in terms.items()})
        if step + 1 == HALF:
            half = snapshot(stage.state_dict())
    rebuilt = stage.latents.table.rebuilt if hasattr(getattr(stage, "latents", None), "table") else 0
    return Trained(told, half, snapshot(stage.state_dict()), rebuilt)


def kept(trained: Trained) -> dict[str, Any]:
    """What the tests read back."""
    return {"terms": trained.terms, "state": trained.state, "rebuilt": trained.rebuilt}


def in_float64() -> None:
    """Make everything that says float a float64, in this process."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def work(rank: int, folder: str) -> None:
    """The first two processes work together, the third one alone; each continues what the other left half done."""
    in_float64()
    assert to_images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).dtype == torch.float64
    who, other = ("together", "alone") if rank < TOGETHER else ("alone", "together")
    if rank < TOGETHER:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=TOGETHER)
    for case in CASES:
        trained = train(case, range(STEPS))
        if is_main():
            torch.save(kept(trained), f"{folder}/{who}, {case}.pt")
            if case in RESUMED:
                save_resume(f"{folder}/{who}, {case}.safetensors", trained.half)
    for case in RESUMED:
        path = Path(f"{folder}/{other}, {case}.safetensors")
        while not path.exists():
            time.sleep(0.05)
        trained = train(case, range(HALF, STEPS), load_resume(path))
        if is_main():
            torch.save(kept(trained), f"{folder}/{who} from {other}, {case}.pt")
    assert world_size() == (TOGETHER if rank < TOGETHER else 1)
    if rank < TOGETHER:
        dist.destroy_process_group()
