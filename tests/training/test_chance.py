"""A decoder that cannot be improved: the original is kept, whatever comes out nearer by chance, and it is told."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.training.continuous import Patches
from tests.training.tiny import ADVERSARIAL, POST, extract
from torch import nn

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import encode_images
from robustok.data.pairs import make_pairs
from robustok.evaluation.scores.reference import Reference
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.training.decoder_stage import TrainedDecoder, train_decoder
from robustok.training.held_out import HeldOut
from robustok.training.objective import Objective
from robustok.training.optim import Optim

WIDTH, IMAGES, STEPS = 192, 200, 20
SAMPLING = FlowSampling(steps=2)


class Exact(Patches):
    """Latents that are the image in other words, and a decoder that gives it back: nothing is left to improve."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
        with torch.no_grad():
            self.encoder.weight.copy_(turned)
            self.decoder.weight.copy_(turned.T)


def tuned(seed: int, folder: Path, as_reference: Any) -> TrainedDecoder:
    """Post-training for a generator that copies: its samples are the latents of other real images, its pairs the own.

    `as_reference`: what is known of the held-out images.
    """
    rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(seed))[: 3 * IMAGES].view(3, IMAGES)
    train, copied, held = (FashionMNIST("train").subset(part) for part in rows)
    tokenizer = Exact()
    with torch.no_grad():
        samples = tokenizer.encode(copied.images(torch.arange(IMAGES)))
    check = HeldOut(tokenizer, samples, as_reference(Reference.of(held, extract())), extract())
    cache = encode_images(tokenizer, train, folder / "latents")
    network = DiffusionTransformer(tokens=16, channels=WIDTH, classes=10, width=64, depth=1, heads=1)
    generator = DiffusionTransformerModel(network).eval()
    pairs = make_pairs(generator, cache, folder / "pairs", sigma=1.0, sampling=SAMPLING, count=IMAGES, seed=seed)
    config = replace(
        POST,
        loop=replace(POST.loop, steps=STEPS, seed=seed, save_every=0, preview_every=0),
        sampling=SAMPLING,
        sigma=1.0,
        precision="fp32",
        objective=Objective(perceptual=0.0, adversary=replace(ADVERSARIAL, disc_start=0.0, gan_start=0.0)),
        optim=Optim(lr=1e-4),
        validate_every=STEPS // 2,
    )
    return train_decoder(config, tokenizer, pairs, train, folder / "run", held_out=check, quiet=True)


def test_the_original_is_kept_in_ten_of_ten_seeds_and_told_why(tmp_path: Path):
    results = [tuned(seed, tmp_path / str(seed), lambda reference: reference) for seed in range(10)]
    assert [result.step for result in results] == [0] * 10
    assert all(result.after == result.before for result in results)
    lucky = [result for result in results if result.by_chance]
    assert lucky, "in none of the seeds was there anything to refuse"
    assert all("standard errors, not 3 or more" in result.by_chance for result in lucky)
    number = next(seed for seed, result in enumerate(results) if result.by_chance)
    told = json.loads((tmp_path / str(number) / "run" / "config.json").read_text())["post_training"]
    assert (told["step"], told["by_chance"]) == (0, results[number].by_chance)
    assert told["refused_step"] > 0
    for name, own in results[number].tokenizer.state_dict().items():
        assert torch.equal(own, Exact().state_dict()[name])
    alone = tuned(number, tmp_path / "alone", lambda reference: reference.stats)  # which cannot tell
    assert alone.step == told["refused_step"]


def test_it_is_told_why_the_original_is_kept():
    result = TrainedDecoder(Exact(), 0, 120.0, 120.0, 119.0, by_chance="120 to 119 are 1.0 standard errors")
    worse = replace(result, worse_in={"vgg-hed": "9 to 12"}).in_words()
    assert "worse in another space, so the original is kept (vgg-hed: 9 to 12; one between the two may be" in worse
    assert "by chance: 120 to 119 are 1.0 standard errors" in worse
    assert result.in_words().endswith("by chance, so the original is kept (120 to 119 are 1.0 standard errors)")
    told = replace(result, by_chance="").in_words()
    assert told.startswith("no decoder was better on held-out images than the original (120), which is kept")
    sure = replace(result, by_chance="", worse_in={"lite2": "worse"})
    assert "so the original is kept (lite2: worse)" in sure.in_words()


def test_a_decoder_that_is_better_for_certain_is_kept():
    """Images of one gray level too dark, by far more than they differ; without doubt where nothing differs."""
    images = FashionMNIST("train").subset(torch.arange(IMAGES))
    tokenizer = Exact()
    with torch.no_grad():
        samples = tokenizer.encode(images.images(torch.arange(IMAGES)) - 0.8)
    check = HeldOut(tokenizer, samples, Reference.of(images, extract()), extract())
    better = copy.deepcopy(tokenizer.decoder)
    better.bias = nn.Parameter(torch.full((WIDTH,), 0.8))
    assert check.by_chance(better) == ""
    assert check.by_chance(tokenizer.decoder).endswith("0.0 standard errors, not 3 or more")
