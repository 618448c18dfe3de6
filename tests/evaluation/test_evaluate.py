import json
from contextlib import nullcontext

import pytest
import torch
from robustok_scored import CODES, SIDE, Blocks, Classes, Grays, Noise, shades
from torch import nn

from robustok.evaluation import reconstruction
from robustok.evaluation.compare import check_comparable
from robustok.evaluation.evaluate import (
    Score,
    decoded,
    score_generator,
    score_image_set,
    score_images,
    score_pixels,
    score_tokenizer,
)
from robustok.evaluation.features import lite0
from robustok.evaluation.fid import FeatureStats, frechet_distance
from robustok.evaluation.inception_score import inception_score
from robustok.evaluation.pfid import BLOCK, grid, perturbed
from robustok.evaluation.reference import Reference, stream_of
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.runtime.seeding import spread
from robustok.shapes import to_images, to_pixels
from robustok.tokenizer.perturbation import neighbours


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
        if score.metric in ("rfid", "rfid_pfid_images", "pfid", "pfid_cell", "psnr", "ssim"):
            low, high = score.interval
            assert low < score.value < high
        else:
            assert score.interval is None


def test_protocol_says_how(scores):
    protocol = scores[0].protocol
    assert protocol["features"] == "shades"
    assert protocol["reference"]["hash"] == "abc"
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
    assert {str(score.protocol["precision"]) for score in scores} == {"{'sampled': 'float32', 'decoded': 'float32'}"}
    with torch.autocast("cpu", torch.bfloat16):
        (other,) = (score for score in run(70) if score.metric == "gfid")
    assert other.protocol["precision"] == {"sampled": "bfloat16", "decoded": "bfloat16"}
    with pytest.raises(ValueError, match="precision.sampled 'float32' once and 'bfloat16' the other time; compute"):
        check_comparable(scores[0], other)
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
    monkeypatch.setattr(reconstruction, "psnr", lambda output, pixels: torch.full((len(pixels),), torch.inf).double())
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


def test_a_set_of_images_has_all_that_the_space_gives(images):
    reference, other = Reference.of(images, Classes()), Noise(300, seed=1)
    scores = score_image_set(other, reference, Classes())
    names = ("fid", "sfid", "inception_score", "precision", "recall", "density", "coverage", "kid", "mind")
    assert tuple(score.metric for score in scores) == names
    assert scores[0].value == score_images(other, reference, Classes()).value
    spatial = [FeatureStats.of(Classes().outputs(source.pixels).spatial) for source in (images, other)]
    assert scores[1].value == pytest.approx(frechet_distance(*spatial), rel=1e-9)
    p = Classes().outputs(other.pixels).logits.double().softmax(dim=1)
    assert scores[2].value == pytest.approx(inception_score(p).mean, rel=1e-9)
    assert scores[0].protocol["generated"]["name"] == "noise"


def test_exchanging_real_and_generated_exchanges_precision_and_recall(images):
    other = Noise(300, seed=1)
    references = [Reference.of(source, shades) for source in (images, other)]
    one, swapped = score_image_set(other, references[0], shades), score_image_set(images, references[1], shades)
    assert value(one, "precision") == value(swapped, "recall") != value(one, "recall")
    assert value(one, "recall") == value(swapped, "precision")
    assert value(one, "fid") == pytest.approx(value(swapped, "fid"), rel=1e-9)


class Still:
    """A generator of latents that the noise becomes unchanged."""

    latent_shape, no_label, device = (4, 1), 2, torch.device("cpu")

    def velocity(self, latents, t, labels):
        return 0 * latents

    def fingerprint(self):
        return "still"


def test_a_generator_of_latents(images):
    reference, labels = Reference.of(images, shades), torch.arange(70) % 2

    def run(batch_size=30, sampling=None):
        sampling = sampling or FlowSampling(steps=2)
        return score_generator(
            Still(), Grays(), reference, labels, shades, sampling=sampling, seed=3, batch_size=batch_size
        )

    scores = run()
    assert scores[0].metric == "gfid"
    assert scores[0].images == 70
    assert scores[0].protocol["sampling"]["steps"] == 2
    assert scores[0].value == pytest.approx(run(70)[0].value, rel=1e-9)
    with pytest.raises(ValueError, match="Still cannot be sampled by Sampling; a generator of latents takes FlowSamp"):
        run(sampling=Sampling())


def test_one_reference_for_each_space(images):
    references = [Reference.of(images, space) for space in (shades, Classes())]
    scores = score_image_set(Noise(90, seed=1), references, [shades, Classes()])
    assert [score.protocol["features"] for score in scores if score.metric == "fid"] == ["shades", "classes"]
    with pytest.raises(ValueError, match="2 feature spaces and 1 references; give one for each"):
        score_image_set(images, references[:1], [shades, Classes()])


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_nan_of_a_tokenizer_is_no_color(images, part, monkeypatch):
    tokenizer = Blocks()
    whole = getattr(tokenizer, part)
    monkeypatch.setattr(tokenizer, part, lambda x: whole(x).index_fill(0, torch.tensor([1, 4]), torch.nan))
    with pytest.raises(ValueError, match=f"the {part}r makes NaN or infinity of 2 of 125 images"):
        score_tokenizer(tokenizer, images, shades)


class Wrong(Noise):
    """Images as somebody else scales them."""

    def __init__(self, scale):
        super().__init__(40)
        self.scale = scale

    def images(self, indices):
        return self.scale(self.pixels[indices].float())


@pytest.mark.parametrize(
    ("scale", "match"),
    [
        (lambda pixels: pixels / 255, r"images run from 0\S* to \S+, as if 0 were black; .* 2 \* images - 1"),
        (lambda pixels: pixels, r"images run from \d+ to 2\d+, as if 0 were black"),
        (lambda pixels: pixels - 127, r"images run from -\d+ to \d+; scale them to \[-1, 1\]: pixels / 127.5 - 1"),
        (lambda pixels: pixels / 127.5 - 1 + torch.nan, "the images hold NaN; look for broken files"),
    ],
)
def test_refuses_images_in_another_range(scale, match):
    for score in (lambda x: Reference.of(x, shades), lambda x: score_tokenizer(Blocks(), x, shades)):
        with pytest.raises(ValueError, match=match):
            score(Wrong(scale))


def test_refuses_too_few_images(images):
    reference = Reference.of(images, shades)
    for count, text in ((0, "0 images"), (1, "1 image")):
        few = Noise(count)
        for score in (lambda few: Reference.of(few, shades), lambda few: score_images(few, reference, shades)):
            with pytest.raises(ValueError, match=f"{text} cannot be scored; give at least two"):
                score(few)
    with pytest.raises(ValueError, match="0 images cannot be scored; give at least two"):
        score_tokenizer(Blocks(), Noise(0), shades)
    with pytest.raises(ValueError, match="no images to score; give at least two"):
        score_pixels([], reference, shades)
    with pytest.raises(ValueError, match="one image has no covariance"):
        score_pixels([images.pixels[:1]], reference, shades)
    with pytest.raises(ValueError, match="no images to score"):
        score_generator(Still(), Grays(), reference, torch.arange(0), shades, sampling=FlowSampling())


FID = {"fid", "kid", "mind", "density", "coverage"}


@pytest.mark.parametrize(
    ("generated", "real", "missing", "told"),
    [
        (
            2,
            40,
            {"precision", "recall"},
            "precision and recall left out, for .* no 3rd .* 2 generated images; give 4",
        ),
        (5, 40, set(), None),
        (40, 2, {"precision", "recall", "density", "coverage"}, "no 3rd .* 2 real images; give 4 or more; density and"),
        (40, 5, {"density", "coverage"}, "density and coverage left out, for there is no 5th .* 5 real images; give 6"),
        (40, 6, set(), None),
    ],
)
def test_few_images_have_the_scores_that_can_be_had(generated, real, missing, told):
    reference = Reference.of(Noise(real), shades)
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        scores = score_image_set(Noise(generated, seed=1), reference, shades)
    values = {score.metric: score.value for score in scores}
    assert values.keys() == (FID | {"precision", "recall"}) - missing
    stats = [FeatureStats.of(shades(images.pixels)) for images in (Noise(real), Noise(generated, seed=1))]
    assert values["fid"] == pytest.approx(frechet_distance(*stats), rel=1e-9)


def test_a_sample_of_one_image_leaves_the_distance_without_an_interval(images):
    reference = Reference.of(images, shades)
    with pytest.warns(UserWarning, match="give 4 or more.* give 2 or more"):
        scores = score_image_set(Noise(40, seed=1), reference, shades, keep=1)
    assert [(s.metric, s.interval) for s in scores] == [("fid", None), ("density", None), ("coverage", None)]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batches_of_any_size_give_one_distance(batch_size):
    """Features do not depend on the company of an image, and statistics are merged in float64."""
    images = Noise(70)
    reference = Reference.of(images, lite0(32, batch_size=16), batch_size=batch_size)
    stream = stream_of(Noise(70, seed=1), lite0(32, batch_size=16), batch_size=batch_size)
    whole = Reference.of(images, lite0(32, batch_size=16))
    assert torch.equal(reference.sample, whole.sample)
    other = stream_of(Noise(70, seed=1), lite0(32, batch_size=16))
    assert frechet_distance(reference.stats, stream.stats) == pytest.approx(
        frechet_distance(whole.stats, other.stats), rel=1e-9
    )
