"""The candidates that count tokens, against closed forms."""

import math

import pytest
import torch
from prediction_counts import entropy, mutual_information, place_counts, predictability


def test_entropy_is_that_of_the_shares_and_half_an_outcome_more_for_each():
    assert float(entropy(torch.tensor([3, 1, 0]))) == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25) + 1 / 8
    )
    both = entropy(torch.tensor([[5, 0], [2, 2]]))
    assert both.tolist() == pytest.approx([0, math.log(2) + 1 / 8])


def test_the_bias_of_counting_is_gone_to_first_order():
    drawn = torch.randint(20, (2000, 200), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(row, minlength=20) for row in drawn])
    share = counts / 200
    plain = float(-torch.xlogy(share, share).sum(dim=1).mean())
    assert math.log(20) - plain > 0.04  # 19 / 400
    assert float(entropy(counts).mean()) == pytest.approx(math.log(20), abs=0.003)


def test_mutual_information_of_what_is_equal_is_its_entropy_and_of_what_is_independent_nothing():
    drawn = torch.randint(4, (2, 100_000), generator=torch.Generator().manual_seed(1))
    assert mutual_information(drawn[0], (drawn[0] + 1) % 4, 4) == pytest.approx(math.log(4), abs=0.001)
    assert mutual_information(drawn[0], drawn[1], 4) == pytest.approx(0, abs=0.0005)
    kept = torch.rand(100_000, generator=torch.Generator().manual_seed(2)) < 0.5
    noisy = torch.where(kept, drawn[0], drawn[1])  # equal with probability 5/8, each other code with 1/8
    left = -5 / 8 * math.log(5 / 8) - 3 / 8 * math.log(1 / 8)
    assert mutual_information(drawn[0], noisy, 4) == pytest.approx(math.log(4) - left, abs=0.01)


def test_places_and_classes_are_told_apart():
    """Class 0 has tokens of its place, class 1 tokens at random: each part of the information is known."""
    labels = torch.arange(40_000) % 2
    place = torch.arange(4).expand(40_000, 4)
    drawn = torch.randint(4, (40_000, 4), generator=torch.Generator().manual_seed(3))
    tokens = torch.where(labels[:, None] == 0, place, drawn)
    assert place_counts(tokens[:2], 5).shape == (4, 5)
    assert int(place_counts(tokens, 4)[2, 2]) == 20_000 + int((drawn[labels == 1][:, 2] == 2).sum())

    found = predictability(tokens, labels, 4)
    mixed = -5 / 8 * math.log(5 / 8) - 3 / 8 * math.log(1 / 8)  # of a place: its token, or one of four
    known = {
        "H": math.log(4),
        "H, place by place": mixed,
        "H given class": math.log(4),
        "H given class, place by place": math.log(4) / 2,
        "class information": 0,
        "class information, place by place": mixed - math.log(4) / 2,
    }
    for name, value in known.items():
        assert found[name] == pytest.approx(value, abs=0.01), name
    columns = predictability(torch.tensor([[0, 1, 0, 1], [2, 3, 2, 3]]).repeat(5000, 1), torch.arange(10_000) % 2, 4)
    assert columns["left neighbor"] == pytest.approx(math.log(2), abs=0.001)  # 0 is beside 1, 2 beside 3
    assert columns["upper neighbor"] == pytest.approx(math.log(4), abs=0.001)  # each is below itself
