"""Generator training on cached tokens."""

import math
from dataclasses import replace

import pytest
import torch
from tests.training.tiny import GENERATOR, cache, images, tokenizer

from robustok.data.latent_cache import encode_images
from robustok.generators.autoregressive import AutoregressiveModel, TrainingDraw
from robustok.runtime.logging import MetricsLog
from robustok.training.generator_training import GeneratorStage, GeneratorTraining, train_generator


def test_a_tiny_run_learns_what_is_in_the_cache(tmp_path):
    config = replace(GENERATOR, loop=replace(GENERATOR.loop, steps=60, log_every=1))
    model = train_generator(config, cache(tmp_path), tmp_path / "run", quiet=True)
    losses = [row["loss"] for row in MetricsLog(tmp_path / "run").rows()]
    assert losses[0] == pytest.approx(math.log(32), abs=0.3)  # it knows nothing: log of 32 codes
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0]
    again = AutoregressiveModel.from_pretrained(tmp_path / "run")
    assert again.fingerprint() == model.fingerprint()


def test_orders_are_permuted_first_and_raster_at_the_end(monkeypatch):
    shares, draw = [], AutoregressiveModel.draw

    def told(
        self: AutoregressiveModel, b: int, *, random_order_fraction: float, generator: torch.Generator
    ) -> TrainingDraw:
        shares.append(random_order_fraction)
        return draw(self, b, random_order_fraction=random_order_fraction, generator=generator)

    monkeypatch.setattr(AutoregressiveModel, "draw", told)
    stage = GeneratorStage(replace(GENERATOR, loop=replace(GENERATOR.loop, steps=8)))
    batch = torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    for step in range(8):
        stage.step(batch, step)
    assert shares == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_accumulating_gives_the_gradient_of_the_whole_batch():
    raster = replace(GENERATOR, generator=replace(GENERATOR.generator, order="raster", label_dropout=0.0))
    batch = torch.arange(8 * 16).view(8, 16) % 32, torch.arange(8)
    weights = []
    for parts in (1, 4):
        stage = GeneratorStage(replace(raster, optim=replace(raster.optim, micro_batches=parts), precision="fp32"))
        terms = stage.step(batch, 0)
        weights.append((terms["loss"], terms["gradient_norm"]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_a_cache_that_does_not_fit_is_named(tmp_path):
    wrong = replace(GENERATOR, generator=replace(GENERATOR.generator, codebook_size=64))
    with pytest.raises(
        ValueError, match="makes 16 tokens of 64 codes, the cache holds 16 tokens of 32 codes; .* codebook_size"
    ):
        train_generator(wrong, cache(tmp_path), tmp_path / "run", quiet=True)
    few = replace(GENERATOR, generator=replace(GENERATOR.generator, classes=9))
    with pytest.raises(ValueError, match=r"knows 9 classes, the images have 10; .* made for as many \(classes\)"):
        train_generator(few, cache(tmp_path), tmp_path / "run", quiet=True)


def test_a_cache_of_another_tokenizer_is_refused(tmp_path):
    cache(tmp_path)
    with pytest.raises(ValueError, match="tokenizer"):
        encode_images(tokenizer(seed=9), images(), tmp_path / "tokens")


def test_order_fractions_outside_the_training_are_refused():
    with pytest.raises(ValueError, match="order_start and order_end are fractions of training"):
        GeneratorTraining(generator=GENERATOR.generator, loop=GENERATOR.loop, order_start=0.8, order_end=0.5)
