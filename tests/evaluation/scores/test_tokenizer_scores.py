import json
from contextlib import nullcontext

import pytest
import torch
from tests.evaluation.scored import CODES, SIDE, Blocks, Classes, Grays, Noise, shades
from torch import nn

from robustok.evaluation.decoding import decoded
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.metrics.pfid import BLOCK, grid, perturbed_by_cells
from robustok.evaluation.scores import accumulators
from robustok.evaluation.scores.image_scores import score_images, score_pixels
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.runtime.seeding import spread
from robustok.shapes import to_images, to_pixels
from robustok.tokenizer.perturbation import neighbors


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
        *("rfid", "rfid_pfid_images", "pfid", *["pfid_cell"] * 15),
        *("psnr", "ssim", "codebook_use", "codebook_perplexity", "dead_codes"),
    ]


def test_rfid_of_the_images_of_pfid_stands_beside_it(scores, images):
    """Of the same images and as many, by hand; pFID of no replaced token would be this."""
    by_metric = {score.metric: score for score in scores}
    beside, pfid = by_metric["rfid_pfid_images"], by_metric["pfid"]
    assert beside.images == pfid.images == BLOCK + 10 < by_metric["rfid"].images
    assert beside.protocol["images"] == pfid.protocol["images"] == "spread over the reference"
    chosen = images.pixels[spread(BLOCK + 10, len(images))]
    output = torch.cat(list(decoded(Blocks(), Blocks().quantize(Blocks().encode(to_images(chosen))).tokens)))
    distance = frechet_distance(FeatureStats.of(shades(chosen)), FeatureStats.of(shades(output)))
    assert beside.value == pytest.approx(distance, rel=1e-9)
    assert beside.value < pfid.value


@pytest.mark.parametrize("tokenizer", [Blocks, Grays])
def test_two_images_have_all_scores_and_one_has_those_of_pixels(tokenizer):
    ifid = pytest.warns(UserWarning, match="iFID is left out; give 3 or more")
    with ifid if tokenizer is Grays else nullcontext():
        two = {score.metric: score for score in score_tokenizer(tokenizer(), Noise(2), shades)}
    assert {"rfid", "rfid_pfid_images", "pfid", "psnr"} <= two.keys()
    with pytest.warns(UserWarning, match="one image has no Frechet distance, so rFID, pFID and iFID are left out"):
        scores = score_tokenizer(tokenizer(), Noise(1), shades)
    one = {score.metric: score.value for score in scores}
    codes = {"codebook_use", "codebook_perplexity", "dead_codes"} if tokenizer is Blocks else set()
    assert one.keys() == {"psnr", "ssim"} | codes
    assert one["psnr"] > 10


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
    """By hand: images spread over the set, tokens perturbed block by block, one cell after the other."""
    tokenizer, count = Blocks(), BLOCK + 10
    chosen = images.pixels[spread(count, len(images))]
    tokens = tokenizer.quantize(tokenizer.encode(to_images(chosen))).tokens
    near = neighbors(tokenizer.codebook, 6)
    by_block = [
        dict(enumerate(perturbed_by_cells(part, near, grid(CODES), seed=0, block=number)))
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
        if score.metric in ("rfid", "rfid_pfid_images", "pfid", "pfid_cell", "psnr", "ssim"):
            low, high = score.interval
            assert low < score.value < high
        else:
            assert score.interval is None


def test_protocol_says_how(scores):
    protocol = scores[0].protocol
    assert protocol["features"] == "shades"
    assert len(protocol["reference"]["hash"]) == 16
    assert scores[2].protocol["cells"] == 15
    assert scores[2].seeds == (0,)
    assert {score.protocol["precision"] for score in scores} == {"float32"}


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


def test_decoded_tokens_are_pixels():
    tokens = torch.randint(CODES, (7, 4))
    parts = list(decoded(Blocks(), tokens, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), to_pixels(Blocks().decode(Blocks().lookup(tokens))))


def test_refuses_what_cannot_be_scored(images):
    with pytest.raises(ValueError, match="pFID cannot be had from 1 image; take at least two"):
        score_tokenizer(Blocks(), images, shades, pfid_images=1)
    with pytest.raises(ValueError, match="reference was computed with features 'shades'"):
        score_images(images, Reference.of(images, shades), lambda pixels: shades(pixels))
    with pytest.raises(ValueError, match="rfid came out as nan"):
        Score(metric="rfid", value=float("nan"), images=5, protocol={})
    flat = torch.full((50, 3, SIDE, SIDE), 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="all 50 images have the same features; .*collapsed"):
        score_pixels([flat], Reference.of(images, shades), shades)


def test_an_image_reproduced_exactly_counts_100_db(monkeypatch):
    images = Noise(40)
    monkeypatch.setattr(accumulators, "psnr", lambda output, pixels: torch.full((len(pixels),), torch.inf).double())
    assert value(score_tokenizer(Blocks(), images, shades), "psnr") == 100


def test_cells_of_few_codes_that_are_equal_are_still_15(images):
    scores = score_tokenizer(Blocks(codes=4), images, shades, pfid_images=30)
    assert [score.metric for score in scores].count("pfid_cell") == 15


def test_several_spaces_in_one_pass(images, scores):
    both = score_tokenizer(Blocks(), images, [shades, Classes()], pfid_images=BLOCK + 10)
    assert [s.value for s in both if s.protocol.get("features") == "shades"] == [s.value for s in scores[:18]]
    assert [s.value for s in both if s.protocol.get("features") == "classes"] == [s.value for s in scores[:18]]
    assert [s.metric for s in both].count("psnr") == 1
    with pytest.raises(ValueError, match="no feature space to score in"):
        score_tokenizer(Blocks(), images, [])


def test_a_perceptual_distance_of_each_image_beside_its_reconstruction(images):
    def apart(real, output):
        return (real - output).abs().mean(dim=(1, 2, 3))

    scores = score_tokenizer(Grays(), images, shades, lpips=apart)
    output = torch.cat(list(decoded(Grays(), Grays().encode(images.images(torch.arange(len(images)))))))
    wanted = apart(to_images(images.pixels), to_images(output)).double()
    assert value(scores, "lpips") == pytest.approx(float(wanted.mean()), rel=1e-6)
    low, high = next(score.interval for score in scores if score.metric == "lpips")
    assert low < value(scores, "lpips") < high


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_nan_of_a_tokenizer_is_no_color(images, part, monkeypatch):
    tokenizer = Blocks()
    whole = getattr(tokenizer, part)
    monkeypatch.setattr(tokenizer, part, lambda x: whole(x).index_fill(0, torch.tensor([1, 4]), torch.nan))
    with pytest.raises(ValueError, match=f"the {part}r makes NaN or infinity of 2 of 125 images"):
        score_tokenizer(tokenizer, images, shades)
