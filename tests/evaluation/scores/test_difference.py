from dataclasses import replace

import pytest
import scipy.stats
import torch

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.difference import (
    Difference,
    paired_difference,
    score_difference,
    seeds_difference,
    unlike,
)
from robustok.evaluation.scores.feature_stream import FeatureStream
from robustok.evaluation.scores.generator_scores import score_streams
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score


def cloud(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def stream(features: torch.Tensor, keep: int = 2000) -> FeatureStream:
    made = FeatureStream({"features": "cloud"}, keep)
    made.add(features)
    return made


REAL = cloud(3000, 0)
REFERENCE = Reference(stats=FeatureStats.of(REAL), sample=REAL[:100], images={}, space={"features": "cloud"})


def test_a_small_gain_on_the_same_tokens_shows():
    before = cloud(500, 1, shift=0.3)
    after = before - 0.01
    paired = paired_difference(stream(before), stream(after), REFERENCE)
    assert paired.before == frechet_distance(REFERENCE.stats, FeatureStats.of(before))
    assert paired.after == frechet_distance(REFERENCE.stats, FeatureStats.of(after))
    assert not paired.within_noise
    assert paired.interval[0] < paired.value < paired.interval[1] < 0
    assert (
        "lower and so better, beyond the noise; 95 % interval of the difference over images, pair by pair"
        in paired.in_words()
    )
    # The same gain between two other draws of images is lost among them.
    other = paired_difference(stream(before), stream(cloud(500, 2, shift=0.29)), REFERENCE)
    assert other.interval[1] - other.interval[0] > 5 * (paired.interval[1] - paired.interval[0])


def test_a_decoder_that_only_adds_noise_of_its_own_decides_nothing():
    tokens = cloud(500, 1)
    one, other = (stream(tokens + 0.5 * cloud(500, seed)) for seed in (2, 3))
    difference = paired_difference(one, other, REFERENCE)
    assert difference.within_noise
    assert "within the noise, so this decides nothing" in difference.in_words()


def test_a_decoder_against_itself_is_the_same():
    same = paired_difference(stream(cloud(500, 1)), stream(cloud(500, 1)), REFERENCE)
    assert (same.value, same.interval) == (0, (0, 0))
    assert "(+0.0%): the same, image by image; 95 % interval" in same.in_words()
    assert "(+0.0%): the same, seed by seed;" in Difference(3.0, 3.0, (0.0, 0.0), "seeds").in_words()


def test_seeds():
    difference = seeds_difference([10.0, 12.0, 11.0], [9.0, 10.9, 10.1])
    assert difference.value == pytest.approx(-1)
    assert not difference.within_noise
    assert difference.in_words().startswith("11 to 10 (-9.1%): lower and so better, beyond the noise; 95 %")
    assert seeds_difference([10.0, 12.0], [9.0, 13.0]).within_noise
    with pytest.raises(ValueError, match="2 and 3 seeds cannot be paired"):
        seeds_difference([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("metric", "after", "words"),
    [
        ("gfid", 12.0, "10 to 12 (+20.0%): higher and so worse, beyond the noise"),
        ("gfid", 9.0, "10 to 9 (-10.0%): lower and so better, beyond the noise"),
        ("inception_score", 12.0, "10 to 12 (+20.0%): higher and so better, beyond the noise"),
        ("precision_after", 9.0, "10 to 9 (-10.0%): lower and so worse, beyond the noise"),
        ("dead_codes", 9.0, "10 to 9 (-10.0%): lower, beyond the noise"),
    ],
)
def test_which_way_is_better(metric, after, words):
    interval = (after - 10 - 0.01, after - 10 + 0.01)
    assert Difference(10.0, after, interval, "seeds", metric).in_words().startswith(words)


def test_a_gap_that_another_training_seed_would_undo():
    small = Difference(10.0, 9.9, (-0.11, -0.09), "images", "gfid")
    assert small.undecided
    assert not small.within_noise
    assert "lower and so better for these weights, but a gap under 1.3% decides nothing" in small.in_words()
    assert not small._replace(after=9.8, interval=(-0.21, -0.19)).undecided, "large enough"
    assert not small._replace(over="seeds").undecided, "other seeds were tried"
    assert not small._replace(metric="precision").undecided, "the rule is about FID"
    assert not small._replace(interval=(-0.2, 0.1)).undecided, "not even beyond the noise of the images"


def test_a_score_of_zero_has_no_share():
    assert Difference(0.0, 1.0, (0.5, 1.5), "images").in_words().startswith("0 to 1: higher")


def gfid(value: float, half: float | None = 0.5, seed: int | None = None, metric: str = "gfid", **protocol) -> Score:
    interval = None if half is None else (max(0.0, value - half), value + half)
    return Score(
        metric=metric,
        value=value,
        interval=interval,
        images=50,
        seeds=() if seed is None else (seed,),
        protocol=protocol,
    )


def test_one_run_on_either_side_leaves_the_intervals_over_images():
    difference = score_difference([gfid(10, 0.3)], [gfid(9, 0.4)])
    assert (difference.over, difference.paired) == ("images", False)
    assert difference.interval == pytest.approx((-1.5, -0.5))
    # A lower end that stopped at 0 says nothing of the error.
    assert score_difference([gfid(0.1, 0.3)], [gfid(0.1, 0.4)]).interval == pytest.approx((-0.5, 0.5))


def test_one_run_against_several_is_taken_to_spread_like_them():
    several = [gfid(10, seed=0), gfid(12, seed=1), gfid(11, seed=2)]
    difference = score_difference(several, [gfid(8, seed=0)])
    assert (difference.over, difference.paired) == ("seeds", False)
    assert difference.interval == pytest.approx((-3 - 4.3027 * (4 / 3) ** 0.5, -3 + 4.3027 * (4 / 3) ** 0.5))
    assert score_difference([gfid(8, seed=0)], several).interval == pytest.approx(
        (3 - 4.3027 * (4 / 3) ** 0.5, 3 + 4.3027 * (4 / 3) ** 0.5)
    )


def test_seeds_that_moved_nothing_are_one_run():
    same = [gfid(10, seed=seed) for seed in range(3)]
    assert score_difference(same, [gfid(9, seed=0)]).over == "images"


def test_the_same_seeds_are_paired_in_any_order_and_others_are_not():
    before = [gfid(10, seed=0), gfid(12, seed=1), gfid(11, seed=2)]
    after = [gfid(10.1, seed=2), gfid(9, seed=0), gfid(10.9, seed=1)]
    paired = score_difference(before, after)
    assert paired == seeds_difference([10, 12, 11], [9, 10.9, 10.1], "gfid")
    apart = score_difference(before, [replace(score, seeds=(score.seeds[0] + 7,)) for score in after])
    assert (apart.over, apart.paired, apart.value) == ("seeds", False, pytest.approx(-1))
    expected = scipy.stats.ttest_ind([9, 10.9, 10.1], [10, 12, 11], equal_var=False).confidence_interval(0.95)
    low, high = apart.interval
    assert (low + high) / 2 == pytest.approx((expected.low + expected.high) / 2)
    assert expected.high - expected.low <= high - low < 1.2 * (expected.high - expected.low)  # degrees rounded down


def test_one_run_without_an_interval_tells_no_noise():
    with pytest.raises(ValueError, match="recall has no interval over images, so .* run two seeds"):
        score_difference([gfid(0.5, None, metric="recall")], [gfid(0.6, None, metric="recall")])


def test_what_was_scored_may_differ_and_how_may_not():
    one, other = (gfid(1, sampling={"guidance": g}, features="lite0") for g in (1.0, 2.0))
    assert not unlike(one, other)
    assert [str(entry) for entry in unlike(one, other, but=())] == ["sampling.guidance 1.0 once and 2.0 the other time"]
    different = replace(one, images=60, protocol={"features": "dinov2"})
    assert [entry.name for entry in unlike(one, different)] == ["number of images", "features"]


def test_refuses_to_pair_other_images():
    with pytest.raises(ValueError, match="500 and 400 images cannot be paired one by one; decode the same tokens"):
        paired_difference(stream(cloud(500, 1)), stream(cloud(400, 1)), REFERENCE)
    other = FeatureStream({"features": "colors"})
    other.add(cloud(500, 1))
    with pytest.raises(ValueError, match="with features 'cloud'"):
        paired_difference(stream(cloud(500, 1)), other, REFERENCE)


def test_only_scores_of_one_protocol_are_compared():
    score = Score(
        metric="rfid", value=1.0, images=50, protocol={"features": "lite0", "reference": {"hash": "a", "count": 5}}
    )
    assert not unlike(score, replace(score, value=2.0))
    (difference,) = unlike(score, replace(score, images=60))
    assert str(difference) == "number of images 50 once and 60 the other time"
    (difference,) = unlike(
        score, replace(score, protocol={"features": "lite0", "reference": {"hash": "b", "count": 5}})
    )
    assert str(difference) == "reference.hash 'a' once and 'b' the other time"


def test_decoders_of_the_same_tokens_are_scored_and_compared():
    tokens = cloud(500, 1, shift=0.3)
    streams = {"after": stream(tokens - 0.01), "before": stream(tokens)}
    scores = score_streams(streams, REFERENCE, seeds=(3,), protocol={"labels": "balanced"})
    by_name = {score.metric: score for score in scores}
    assert {"gfid_before", "gfid_after", "precision_before", "kid_after"} <= by_name.keys()
    low, high = by_name["precision_after"].interval
    assert low < by_name["precision_after"].value < high <= 1
    assert by_name["recall_after"].interval is None
    change, expected = by_name["gfid_difference"], paired_difference(streams["before"], streams["after"], REFERENCE)
    assert (change.value, change.interval, change.images, change.seeds) == (
        expected.value,
        expected.interval,
        500,
        (3,),
    )
    assert (change.protocol["from"], change.protocol["to"], change.protocol["features"]) == ("before", "after", "cloud")
    assert change.protocol["in_words"] == expected.in_words()
    assert change.value == pytest.approx(by_name["gfid_after"].value - by_name["gfid_before"].value)
