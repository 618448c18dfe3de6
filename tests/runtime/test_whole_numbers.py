"""Whole numbers of Python, numpy and torch, and what is none."""

import numpy as np
import pytest
import torch

from robustok.runtime.whole_numbers import whole_number, whole_numbers


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5), torch.tensor(5), torch.tensor(5, dtype=torch.int32)])
def test_a_whole_number_is_one_whoever_made_it(value):
    found = whole_number(value)
    assert type(found) is int
    assert found == 5


@pytest.mark.parametrize(
    "value", [5.0, "5", None, True, np.True_, np.float64(5), torch.tensor(5.0), torch.tensor(True), [5]]
)
def test_anything_else_is_none(value):
    assert whole_number(value) is None


@pytest.mark.parametrize("values", [[0, 2], (0, 2), np.array([0, 2]), torch.tensor([0, 2]), range(0, 4, 2)])
def test_several_come_in_a_row(values):
    assert torch.equal(whole_numbers(values, "indices"), torch.tensor([0, 2]))


def test_there_may_be_none():
    for values in ([], (), np.array([]), torch.empty(0, dtype=torch.int64)):
        assert whole_numbers(values, "indices").shape == (0,)


@pytest.mark.parametrize("values", [torch.tensor([True, False]), np.array([True, False]), [True, False]])
def test_a_mask_is_not_taken_for_the_numbers_0_and_1(values):
    with pytest.raises(ValueError, match=r"indices are a \w+ of shape \(2,\) .*; of a mask give mask.nonzero"):
        whole_numbers(values, "indices")


@pytest.mark.parametrize("values", [torch.tensor([0.0, 1.7]), [0.5], [[0, 1]], torch.tensor(3), "01", 5, None, ["a"]])
def test_what_is_no_row_of_whole_numbers_is_refused(values):
    with pytest.raises(ValueError, match=r"indices are a .*; give whole numbers in a row, such as torch.tensor"):
        whole_numbers(values, "indices")
