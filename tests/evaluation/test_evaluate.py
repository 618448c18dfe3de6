import json
from typing import NamedTuple

import pytest
import torch
from torch import nn

from robustok.evaluation import reconstruction
from robustok.evaluation.evaluate import (
    Score,
    decoded,
    score_generator,
    score_images,
    score_pixels,
    score_tokenizer,
)
from robustok.evaluation.fid import FeatureStats, frechet_distance
from robustok.evaluation.pfid import BLOCK, grid, perturbed
from robustok.evaluation.reference import Reference
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling
from robustok.shapes import to_images, to_pixels
from robustok.tokenizer.perturbation import neighbours

CODES, SIDE = 256, 12


class Quantized(NamedTuple):
    tokens: torch.Tensor


def quarters(values):
    """(b c 2 2) blown up to images."""
    return values.repeat_interleave(SIDE // 2, 2).repeat_interleave(SIDE // 2, 3)


class Blocks(nn.Module):
    """A tokenizer of four tokens: each is the mean gray of a quarter, in 256 levels."""

    codebook: torch.Tensor
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.register_buffer("codebook", torch.linspace(-1, 1, CODES)[:, None])
        self.seen_training = False

    def encode(self, images):
        self.seen_training |= self.training
        means = nn.functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 2)
        return means.flatten(2).transpose(1, 2)

    def quantize(self, latents):
        return Quantized((latents - self.codebook.T).abs().argmin(dim=2))

    def lookup(self, tokens):
        return self.codebook[tokens]

    def decode(self, codes):
        return (
            codes.transpose(1, 2).view(-1, 1, 2, 2).repeat_interleave(6, 2).repeat_interleave(6, 3).repeat(1, 3, 1, 1)
        )


class Noise:
    """Images of four noisy quarters, sorted by brightness."""

    def __init__(self, count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        means = torch.rand(count, 1, 2, 2, generator=generator).sort(dim=0).values * 200 + 20
        noise = torch.randn(count, 3, SIDE, SIDE, generator=generator) * 8
        self.pixels = (quarters(means) + noise).clamp(0, 255).to(torch.uint8)

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return to_images(self.pixels[indices])

    def describe(self):
        return {"name": "noise", "count": len(self), "hash": "abc"}


def shades(pixels):
    return nn.functional.avg_pool2d(pixels.float(), 4).flatten(1) / 50


@pytest.fixture(scope="module")
def images() -> Noise:
    return Noise(2 * BLOCK + 20)


@pytest.fixture(scope="module")
def scores(images) -> list[Score]:
    return score_tokenizer(Blocks(), images, shades, pfid_images=BLOCK + 10)


def value(scores: list[Score], metric: str) -> float:
    (score,) = (score for score in scores if score.metric == metric)
    return score.value


def test_one_score_for_each_metric_and_cell(scores):
    names = [score.metric for score in scores]
    assert names == [
        *("rfid", "pfid", *["pfid_cell"] * 15),
        *("psnr", "ssim", "codebook_use", "codebook_perplexity", "dead_codes"),
    ]


def test_rfid_is_the_distance_of_all_reconstructions(scores, images):
    tokenizer, whole = Blocks(), images.images(torch.arange(len(images)))
    tokens = tokenizer.quantize(tokenizer.encode(whole)).tokens
    output = to_pixels(tokenizer.decode(tokenizer.lookup(tokens)))
    distance = frechet_distance(FeatureStats.of(shades(images.pixels)), FeatureStats.of(shades(output)))
    assert value(scores, "rfid") == pytest.approx(distance, rel=1e-9)
    used = tokens.unique().numel()
    assert value(scores, "codebook_use") == used / CODES
    assert value(scores, "dead_codes") == CODES - used
    assert 1 < value(scores, "codebook_perplexity") <= used
    error = (output.double() - images.pixels.double()).square().mean(dim=(1, 2, 3))
    assert value(scores, "psnr") == pytest.approx(float((10 * torch.log10(255**2 / error)).mean()))


def test_pfid_cells_are_distances_of_perturbed_reconstructions(scores, images):
    """By hand: images evenly spaced, tokens perturbed block by block, one cell after the other."""
    tokenizer, count = Blocks(), BLOCK + 10
    chosen = images.pixels[torch.arange(count) * len(images) // count]
    tokens = tokenizer.quantize(tokenizer.encode(to_images(chosen))).tokens
    near = neighbours(tokenizer.codebook, 6)
    by_block = [
        dict(enumerate(perturbed(part, near, grid(CODES), seed=0, block=number)))
        for number, part in enumerate(tokens.split(BLOCK))
    ]
    cells = [score for score in scores if score.metric == "pfid_cell"]
    for number, cell in enumerate(grid(CODES)):
        noisy = torch.cat([block[number][1] for block in by_block])
        output = to_pixels(tokenizer.decode(tokenizer.lookup(noisy)))
        distance = frechet_distance(FeatureStats.of(shades(chosen)), FeatureStats.of(shades(output)))
        assert cells[number].value == pytest.approx(distance, rel=1e-9)
        assert cells[number].protocol["alpha"] == cell.alpha
        assert cells[number].protocol["delta"] == cell.delta
        assert cells[number].images == count
    mean = sum(cell.value for cell in cells) / 15
    assert value(scores, "pfid") == pytest.approx(mean)


def test_batch_size_does_not_change_scores(scores, images):
    again = score_tokenizer(Blocks(), images, shades, pfid_images=BLOCK + 10, batch_size=33)
    for one, other in zip(scores, again, strict=True):
        assert (one.metric, one.protocol) == (other.metric, other.protocol)
        assert one.value == pytest.approx(other.value, rel=1e-9)


def test_seed_changes_only_what_is_random(scores, images):
    again = score_tokenizer(Blocks(), images, shades, pfid_images=BLOCK + 10, seed=1)
    for one, other in zip(scores, again, strict=True):
        assert (one.value == other.value) == (not one.metric.startswith("pfid"))
        assert other.seeds == ((1,) if one.metric.startswith("pfid") else ())


def test_intervals_surround_values(scores):
    for score in scores:
        if score.metric in ("rfid", "pfid", "pfid_cell", "psnr", "ssim"):
            low, high = score.interval
            assert low < score.value < high
        else:
            assert score.interval is None


def test_protocol_says_how(scores):
    protocol = scores[0].protocol
    assert protocol["features"] == "shades"
    assert protocol["reference"]["hash"] == "abc"
    assert scores[1].protocol["cells"] == 15
    assert scores[1].seeds == (0,)


def test_tokenizer_is_in_evaluation_mode_for_the_while(images):
    tokenizer = Blocks().train()
    tokenizer.add_module("frozen", nn.Dropout().eval())
    score_tokenizer(tokenizer, images, shades, pfid_images=20)
    assert not tokenizer.seen_training
    assert tokenizer.training
    assert not tokenizer.get_submodule("frozen").training


def test_tells_its_progress(images):
    seen = []
    score_tokenizer(Blocks(), images, shades, pfid_images=20, progress=lambda *both: seen.append(both))
    assert seen == sorted(seen)
    assert seen[-1] == (2 * len(images) + 15 * 20, 2 * len(images) + 15 * 20)


def test_a_record_comes_back_from_json(scores):
    for score in scores:
        assert Score.from_plain(json.loads(json.dumps(score.to_plain()))) == score


def test_floor_is_the_distance_of_two_real_sets(images):
    reference, other = Reference.of(images, shades), Noise(300, seed=1)
    floor = score_images(other, reference, shades)
    assert floor.metric == "fd_floor"
    assert floor.value == pytest.approx(frechet_distance(reference.stats, FeatureStats.of(shades(other.pixels))))
    low, high = floor.interval or (0, 0)
    assert low < floor.value < high


def test_generated_pixels(images):
    reference, pixels = Reference.of(images, shades), Noise(90, seed=1).pixels
    scores = score_pixels(pixels.split(20), reference, shades, suffix="_before", seeds=(4,), protocol={"guidance": 2.0})
    names = ("gfid", "precision", "recall", "density", "coverage", "kid", "mind")
    assert [score.metric for score in scores] == [f"{name}_before" for name in names]
    assert all(score.images == 90 and score.seeds == (4,) for score in scores)
    assert all(score.protocol["guidance"] == 2.0 for score in scores)
    distance = frechet_distance(reference.stats, FeatureStats.of(shades(pixels)))
    assert scores[0].value == pytest.approx(distance, rel=1e-9)
    same = score_pixels(images.pixels.split(100), reference, shades)
    assert [round(score.value, 6) for score in same[:3]] == [0, 1, 1]


def test_generator_is_scored_on_its_samples(images):
    reference, labels = Reference.of(images, shades), torch.arange(70) % 2
    config = Autoregressive(codebook_size=CODES, tokens=4, classes=2, width=64, depth=1, heads=1)
    generator = AutoregressiveModel(config)
    seen = []

    def run(batch_size):
        return score_generator(
            generator,
            Blocks(),
            reference,
            labels,
            shades,
            sampling=Sampling(),
            seed=3,
            batch_size=batch_size,
            progress=lambda *both: seen.append(both),
        )

    scores = run(30)
    assert seen == [(30, 70), (60, 70), (70, 70)]
    assert scores[0].metric == "gfid"
    assert scores[0].seeds == (3,)
    assert scores[0].protocol["sampling"]["temperature"] == 1.0
    assert scores[0].value == pytest.approx(run(70)[0].value, rel=1e-9)


def test_decoded_tokens_are_pixels():
    tokens = torch.randint(CODES, (7, 4))
    parts = list(decoded(Blocks(), tokens, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), to_pixels(Blocks().decode(Blocks().lookup(tokens))))


def test_refuses_floats_as_pixels(images, unchecked):
    with pytest.raises(ValueError, match="uint8 pixels, not from torch.float32"):
        score_pixels([images.pixels / 255], Reference.of(images, shades), shades)


def test_refuses_what_cannot_be_scored(images):
    with pytest.raises(ValueError, match="pFID cannot be had from 1 images; take at least two"):
        score_tokenizer(Blocks(), images, shades, pfid_images=1)
    with pytest.raises(ValueError, match="reference was computed with features 'shades'"):
        score_images(images, Reference.of(images, shades), lambda pixels: shades(pixels))
    with pytest.raises(ValueError, match="rfid came out as nan"):
        Score(metric="rfid", value=float("nan"), images=5, protocol={})
    flat = torch.full((50, 3, SIDE, SIDE), 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="all 50 generated images have the same features"):
        score_pixels([flat], Reference.of(images, shades), shades)


def test_an_image_reproduced_exactly_counts_100_db(monkeypatch):
    images = Noise(40)
    monkeypatch.setattr(reconstruction, "psnr", lambda output, pixels: torch.full((len(pixels),), torch.inf).double())
    assert value(score_tokenizer(Blocks(), images, shades), "psnr") == 100
