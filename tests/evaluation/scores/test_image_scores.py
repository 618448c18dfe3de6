from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tests.evaluation.scored import Classes, Noise, shades

from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.metrics.inception_score import ClassStats
from robustok.evaluation.metrics.memorization import auth_percent, data_copying
from robustok.evaluation.metrics.pfid import BLOCK
from robustok.evaluation.metrics.vendi import vendi_score
from robustok.evaluation.scores.feature_stream import stream_of
from robustok.evaluation.scores.image_scores import score_image_set, score_images, score_pixels
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.runtime.seeding import stream as random_stream


@pytest.fixture(scope="module")
def images() -> Noise:
    return Noise(2 * BLOCK + 20)


def value(scores: list[Score], metric: str) -> float:
    (score,) = (score for score in scores if score.metric == metric)
    return score.value


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
    names = ("gfid", "precision", "recall", "density", "coverage", "kid", "mind", "vendi")
    assert [score.metric for score in scores] == [f"{name}_before" for name in names]
    assert all(score.images == 90 and score.seeds == (4,) for score in scores)
    assert all(score.protocol["guidance"] == 2.0 for score in scores)
    distance = frechet_distance(reference.stats, FeatureStats.of(shades(pixels)))
    assert scores[0].value == pytest.approx(distance, rel=1e-9)
    same = score_pixels(images.pixels.split(100), reference, shades)
    assert [round(score.value, 6) for score in same[:3]] == [0, 1, 1]


def test_refuses_floats_as_pixels(images, unchecked):
    with pytest.raises(ValueError, match="uint8 pixels, not from torch.float32"):
        score_pixels([images.pixels / 255], Reference.of(images, shades), shades)


def test_a_set_of_images_has_all_that_the_space_gives(images):
    reference, other = Reference.of(images, Classes()), Noise(300, seed=1)
    scores = score_image_set(other, reference, Classes())
    names = ("fid", "sfid", "inception_score", "precision", "recall", "density", "coverage", "kid", "mind", "vendi")
    assert tuple(score.metric for score in scores) == names
    assert scores[0].value == score_images(other, reference, Classes()).value
    spatial = [FeatureStats.of(Classes().outputs(source.pixels).spatial) for source in (images, other)]
    assert scores[1].value == pytest.approx(frechet_distance(*spatial), rel=1e-9)
    p = Classes().outputs(other.pixels).logits.double().softmax(dim=1)
    assert scores[2].value == pytest.approx(ClassStats.of(p, torch.arange(300)).score().mean, rel=1e-9)
    assert scores[0].protocol["generated"]["name"] == "noise"


def test_exchanging_real_and_generated_exchanges_precision_and_recall(images):
    other = Noise(300, seed=1)
    references = [Reference.of(source, shades) for source in (images, other)]
    one, swapped = score_image_set(other, references[0], shades), score_image_set(images, references[1], shades)
    assert value(one, "precision") == value(swapped, "recall") != value(one, "recall")
    assert value(one, "recall") == value(swapped, "precision")
    assert value(one, "fid") == pytest.approx(value(swapped, "fid"), rel=1e-9)


def test_one_reference_for_each_space(images):
    references = [Reference.of(images, space) for space in (shades, Classes())]
    scores = score_image_set(Noise(90, seed=1), references, [shades, Classes()])
    assert [score.protocol["features"] for score in scores if score.metric == "fid"] == ["shades", "classes"]
    with pytest.raises(ValueError, match="2 feature spaces and 1 references; give one for each"):
        score_image_set(images, references[:1], [shades, Classes()])


FID = {"fid", "kid", "mind", "density", "coverage", "vendi"}


@pytest.mark.parametrize(
    ("generated", "real", "missing", "told"),
    [
        (
            2,
            40,
            {"precision", "recall"},
            "precision and recall left out, for there are too few generated images, 2; give 4",
        ),
        (5, 40, set(), None),
        (40, 2, {"precision", "recall", "density", "coverage"}, "too few real images, 2; give 4 or more; density and"),
        (40, 5, {"density", "coverage"}, "density and coverage left out, for there are too few real images, 5; give 6"),
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
    assert [(s.metric, s.interval) for s in scores] == [(n, None) for n in ("fid", "density", "coverage", "vendi")]


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


def test_memory_of_training_images(images):
    """The three numbers are those of the metrics, of all training images, whatever the size of the samples."""
    train, made, real = (Noise(count, seed=seed) for count, seed in ((400, 3), (200, 1), (300, 2)))
    beside = Reference.of(real, shades).with_train(Reference.of(train, shades, keep=400))
    scores = {score.metric: score for score in score_image_set(made, beside, shades)}
    sets = {"generated": shades(made.pixels), "train": shades(train.pixels)}
    assert scores["vendi"].value == pytest.approx(vendi_score(sets["generated"]))
    assert scores["authpct"].value == pytest.approx(auth_percent(**sets))
    held_out = {"generated": shades(real.pixels), "train": sets["train"]}
    assert scores["authpct_held_out"].value == pytest.approx(auth_percent(**held_out))
    copying = data_copying(**sets, held_out=shades(real.pixels), generator=random_stream(0, "C_T"))
    assert scores["c_t"].value == pytest.approx(copying)
    low, high = scores["authpct"].interval or (0, 0)
    assert 0 < low < scores["authpct"].value < high < 100
    assert scores["c_t"].protocol["train"]["count"] == 400
    copies = {s.metric: s.value for s in score_image_set(train, beside, shades)}
    assert copies["authpct"] == 0
    assert copies["c_t"] < -10
    assert "authpct" not in {score.metric for score in score_image_set(made, Reference.of(real, shades), shades)}


def test_memory_takes_all_training_images_and_others_that_are_held_out():
    train, made = Noise(60, seed=3), Noise(50, seed=1)
    reference, some = Reference.of(made, shades), Reference.of(train, shades, keep=59)
    with pytest.raises(ValueError, match="training images are 60, and features of 59 are kept.*--sample-size"):
        reference.with_train(some)
    published = replace(some, stats=FeatureStats.published(some.stats.mean, some.stats.covariance))
    with pytest.raises(ValueError, match="training images are an unknown number, and features of 59 are kept"):
        reference.with_train(published)
    with pytest.raises(ValueError, match="computed with features 'shades', the images to score with 'classes'"):
        reference.with_train(Reference.of(train, Classes()))
    same = Reference.of(train, shades)
    with pytest.warns(UserWarning, match="C_T left out, for C_T compares with held-out images"):
        scores = score_image_set(made, same.with_train(same), shades)
    assert {"authpct", "authpct_held_out", "c_t"} & {score.metric for score in scores} == {"authpct"}
