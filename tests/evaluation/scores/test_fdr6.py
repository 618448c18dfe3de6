from dataclasses import replace

import pytest

from robustok.evaluation.scores.fdr6 import IMAGENET_256, fdr
from robustok.evaluation.scores.score import Score


def distance(space: str, value: float) -> Score:
    return Score(metric="gfid", value=value, images=50, seeds=(1,), protocol={"features": space, "hash": "a"})


def test_the_validation_set_has_a_mean_of_1():
    score = fdr([distance(space, value) for space, value in IMAGENET_256.items()])
    assert (score.metric, score.value, score.images, score.seeds) == ("fdr6", pytest.approx(1), 50, (1,))


def test_mean_of_ratios_with_normalizers_of_ones_own():
    score = fdr([distance("lite0", 12.0), distance("colors", 3.0)], {"lite0": 4.0, "colors": 6.0})
    assert score.metric == "fdr2"
    assert score.value == (3 + 0.5) / 2
    assert score.protocol["ratios"] == {"lite0": 3, "colors": 0.5}
    assert score.protocol["normalisers"] == {"lite0": 4.0, "colors": 6.0}
    assert score.protocol["spaces"]["colors"]["hash"] == "a"


def test_refuses_what_has_no_common_scale():
    with pytest.raises(
        ValueError, match="no normalizer for 'lite0', only for inception, dinov2.* of other real images"
    ):
        fdr([distance("lite0", 3.0)])
    with pytest.raises(ValueError, match="normalizer of 'lite0' is 0"):
        fdr([distance("lite0", 3.0)], {"lite0": 0.0})
    with pytest.raises(ValueError, match="no distance to take a mean of"):
        fdr([])
    with pytest.raises(ValueError, match="2 distances are of 1 spaces"):
        fdr([distance("mae", 1.0), distance("mae", 2.0)])
    for name, other in (("images", 60), ("metric", "rfid"), ("seeds", (2,))):
        with pytest.raises(ValueError, match=f"differ in {name}.* same images in every space"):
            fdr([distance("mae", 1.0), replace(distance("clip", 2.0), **{name: other})])
