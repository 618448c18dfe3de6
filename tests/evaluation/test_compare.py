from dataclasses import replace

import pytest
import torch

from robustok.evaluation.compare import Difference, check_comparable, paired_difference, seeds_difference
from robustok.evaluation.evaluate import Score
from robustok.evaluation.feature_stream import FeatureStream
from robustok.evaluation.fid import FeatureStats, frechet_distance
from robustok.evaluation.reference import Reference


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
    assert "lower, beyond the noise; 95 % interval of the difference over images" in paired.in_words()
    # The same gain between two other draws of images is lost among them.
    other = paired_difference(stream(before), stream(cloud(500, 2, shift=0.29)), REFERENCE)
    assert other.interval[1] - other.interval[0] > 5 * (paired.interval[1] - paired.interval[0])


def test_a_decoder_that_only_adds_noise_of_its_own_decides_nothing():
    tokens = cloud(500, 1)
    one, other = (stream(tokens + 0.5 * cloud(500, seed)) for seed in (2, 3))
    difference = paired_difference(one, other, REFERENCE)
    assert difference.within_noise
    assert "within the noise, so this decides nothing" in difference.in_words()


def test_seeds():
    difference = seeds_difference([10.0, 12.0, 11.0], [9.0, 10.9, 10.1])
    assert difference.value == pytest.approx(-1)
    assert not difference.within_noise
    assert difference.in_words().startswith("11 to 10 (-9.1%): lower, beyond the noise; 95 % interval")
    assert seeds_difference([10.0, 12.0], [9.0, 13.0]).within_noise
    with pytest.raises(ValueError, match="2 and 3 seeds cannot be paired"):
        seeds_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_a_gain_is_higher_where_the_value_rises():
    assert ": higher, beyond the noise" in Difference(10, 12, (1, 3), "seeds").in_words()


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
    check_comparable(score, replace(score, value=2.0))
    with pytest.raises(ValueError, match="rfid and pfid are two metrics"):
        check_comparable(score, replace(score, metric="pfid"))
    with pytest.raises(ValueError, match="of 50 and of 60 images"):
        check_comparable(score, replace(score, images=60))
    other = replace(score, protocol={"features": "lite0", "reference": {"hash": "b", "count": 5}})
    with pytest.raises(ValueError, match="computed with reference.hash 'a' once and 'b' the other time"):
        check_comparable(score, other)
