"""Correlations against scipy's, and the coverage of their intervals."""

import numpy as np
import pytest
import torch
from correlation import bootstrap, correlation, left_out, left_out_ratio, pearson, ranks, spearman
from scipy import stats

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance


def test_both_are_scipy_s_with_equal_values_too():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 30)), rng.normal(size=(3, 30))
    x[:, :6] = x[:, 7:8]
    for i in range(3):
        assert pearson(x, y)[i] == pytest.approx(stats.pearsonr(x[i], y[i]).statistic)
        assert spearman(x, y)[i] == pytest.approx(stats.spearmanr(x[i], y[i]).statistic)
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]


def test_any_rising_relation_has_rank_correlation_one():
    x = np.array([1.0, 2.0, 3.0, 10.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert pearson(x, 1 - 2 * x) == pytest.approx(-1)
    assert np.isnan(pearson(x, np.ones(4)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        x = rng.normal(size=40)
        y = 0.6 * x + 0.8 * rng.normal(size=40)  # r = 0.6
        estimate = correlation(pearson, x.tolist(), y.tolist())
        assert estimate.low < estimate.value < estimate.high
        covered += estimate.low <= 0.6 <= estimate.high
    assert covered >= 48  # percentile intervals of 40 cover somewhat less than 95 %


def test_the_interval_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(2).normal(size=400)
    estimate = bootstrap(lambda chosen: values[chosen].mean(axis=-1), 400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_model_left_out_is_predicted_from_the_others():
    """With the error residual / (1 - leverage) (Allen 1974); leverage is 1 / n where there is only the mean."""
    rng = np.random.default_rng(3)
    columns, y = rng.normal(size=(2, 12)) * [[1.0], [1e4]], rng.normal(size=12)
    x = np.stack([np.ones(12), *columns], axis=1)
    hat = x @ np.linalg.pinv(x)
    press = (y - hat @ y) / (1 - np.diag(hat))
    mean = (y - y.mean()) * 12 / 11
    assert y - left_out(list(columns), y) == pytest.approx(press)
    assert y - left_out([], y) == pytest.approx(mean)
    found = left_out_ratio(list(columns), y)
    assert found.value == pytest.approx(np.sqrt((press**2).mean() / (mean**2).mean()))
    assert found.low < found.value < found.high


def test_what_is_linear_in_the_columns_is_predicted_without_error():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 9))
    exact = left_out_ratio([a, b], 3 * a - b + 1)
    assert exact == pytest.approx((0, 0, 0), abs=1e-6)
    assert left_out_ratio([a], 3 * a - b + 1).value > 0.1


def test_a_model_that_is_there_twice_is_left_out_twice():
    """A resample does not predict it from its copy, and weighs what it is predicted from."""
    x, y = np.array([0.0, 1.0, 3.0, 4.0]), np.array([0.0, 2.0, 1.0, 5.0])
    weights = np.array([[1.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = left_out([x], y, weights)
    assert found[0, 1] == pytest.approx(1 / 3)  # on the line from (0, 0) to (3, 1)
    one, two, two_again = np.polyfit([0.0, 3.0, 4.0], [0.0, 1.0, 5.0], 1), y[[1, 1, 2]], x[[1, 1, 2]]
    assert found[1, 1] == pytest.approx(np.polyval(one, 1.0))
    assert found[0, 0] == pytest.approx(np.polyval(np.polyfit(two_again, two, 1), 0.0))
    assert left_out([], y, weights)[0].tolist() == pytest.approx([5 / 3, 0.5, 4 / 3, 5 / 4])


def test_kin_are_left_out_and_drawn_together():
    """Against a loop over the families; in which a line through one family's own members would predict it."""
    rng = np.random.default_rng(3)
    kin = [name for name in "abcde" for _ in range(3)]
    family = {name: rng.normal() for name in "abcde"}
    x = np.array([family[name] + 0.01 * rng.normal() for name in kin])
    y = np.array([rng.normal() for _ in "abcde"]).repeat(3) + 0.01 * rng.normal(size=15)
    predicted = left_out([x], y, kin=kin)
    for i, name in enumerate(kin):
        others = np.array([other != name for other in kin])
        slope, start = np.polyfit(x[others], y[others], 1)
        assert predicted[i] == pytest.approx(start + slope * x[i])
    apart, together = left_out_ratio([x], y, kin=kin, rounds=200), left_out_ratio([x], y, rounds=200)
    means = np.array([y[[other != name for other in kin]].mean() for name in kin])
    assert apart.value == pytest.approx(np.sqrt(((predicted - y) ** 2).mean() / ((means - y) ** 2).mean()))
    assert apart.value > together.value
    assert apart.high - apart.low > 0
    with pytest.raises(ValueError, match="at least three"):
        left_out_ratio([x[:6]], y[:6], kin=kin[:6])


def test_a_fit_that_the_others_do_not_determine_is_nan():
    assert np.isnan(left_out([[1.0, 1.0, 1.0, 2.0]], [1.0, 2.0, 3.0, 4.0])).tolist() == [False, False, False, True]
    assert np.isnan(left_out([[1.0, 2.0, 3.0], [1.0, 4.0, 2.0]], [1.0, 2.0, 3.0])).all()
    assert np.isnan(left_out_ratio([[1.0, 2.0, 3.0], [1.0, 4.0, 2.0]], [1.0, 2.0, 3.0])).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least three of them, not 2"):
        correlation(pearson, [1.0, 2.0], [2.0, 1.0])
    with pytest.raises(ValueError, match=r"not \(3,\) and \(4,\); pair the scores"):
        correlation(pearson, [1.0, 2.0, 3.0], [2.0, 1.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"target's 4 models, not \[3\]; pair them"):
        left_out_ratio([[1.0, 2.0, 3.0]], [2.0, 1.0, 3.0, 4.0])


def test_bootstrap_is_wrong_for_a_distance():
    """Which is why it is not offered for one: fewer distinct images are farther from the real ones."""
    generator = torch.Generator().manual_seed(7)
    features, real = (torch.randn(n, 40, generator=generator) for n in (60, 2000))
    reference = FeatureStats.of(real)

    def distances(draws: np.ndarray) -> np.ndarray:
        return np.array([frechet_distance(reference, FeatureStats.of(features[chosen])) for chosen in draws])

    found = bootstrap(distances, 60, rounds=50)
    assert found.low > found.value
