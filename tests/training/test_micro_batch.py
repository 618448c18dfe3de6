"""A batch cut into micro-batches, and each of them over the processes."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from robustok.training.micro_batch import micro_batches_of, own_rows, split, whole_batch


class Pair(NamedTuple):
    images: Tensor
    labels: Tensor


def test_a_batch_is_split_with_shares():
    found = list(split(Pair(torch.arange(14).view(7, 2), torch.arange(7)), micro_batches_of(7, 3)))
    assert [part.fraction for _, part in found] == [3 / 7, 3 / 7, 1 / 7]
    assert [part.last for _, part in found] == [False, False, True]
    assert all(isinstance(piece, Pair) for piece, _ in found)
    assert torch.equal(torch.cat([piece.labels for piece, _ in found]), torch.arange(7))
    ((whole, part),) = split({"a": torch.ones(4), "b": (torch.ones(4, 2), torch.ones(4))}, micro_batches_of(4, 1))
    assert part == whole_batch(4)
    assert part.fraction == part.weight == 1.0
    assert whole["b"][0].shape == (4, 2)
    assert len(micro_batches_of(3, 8)) == 3


def test_lengths_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]; they must agree to be split"):
        list(split((torch.ones(2), torch.ones(3)), micro_batches_of(2, 1)))


@pytest.mark.parametrize(("batch", "count", "processes"), [(12, 1, 2), (12, 2, 3), (11, 2, 2), (17, 3, 4)])
def test_micro_batch_m_of_all_processes_is_that_of_one(batch, count, processes):
    everyone = [micro_batches_of(batch, count, own, processes) for own in range(processes)]
    rows = [own_rows(parts).own for parts in everyone]
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(batch))
    for one, *shared in zip(micro_batches_of(batch, count), *everyone, strict=True):
        together = torch.cat([m.start + m.rows.own for m in shared])
        assert torch.equal(together, torch.arange(one.start, one.start + one.size))
        assert {m.last for m in shared} == {one.last}
        assert len({m.counts for m in shared}) == 1


@pytest.mark.parametrize(("batch", "count", "processes"), [(12, 2, 2), (11, 2, 2), (17, 3, 4)])
def test_fractions_make_the_mean_over_processes_that_over_the_batch(batch, count, processes):
    values = torch.rand(batch, dtype=torch.float64)
    own_losses = [
        sum(part.fraction * piece.mean() for piece, part in split(values[own_rows(parts).own], parts))
        for parts in (micro_batches_of(batch, count, own, processes) for own in range(processes))
    ]
    torch.testing.assert_close(sum(own_losses) / processes, values.mean(), rtol=1e-12, atol=0)


def test_rows_are_drawn_as_those_of_the_whole_batch():
    class Draw(NamedTuple):
        values: Tensor
        numbers: Tensor

    whole = Draw(torch.rand(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7))
    pieces = [part.drawn(whole) for own in range(2) for part in micro_batches_of(7, 1, own, 2)]
    for pieces_of_one, values in zip(zip(*pieces, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(pieces_of_one), values)


def test_a_process_without_rows_is_refused():
    with pytest.raises(ValueError, match="of 5 in 2 micro-batches leaves one of 3 .* in micro-batch 2; take"):
        micro_batches_of(5, 2, 0, 3)
