import pytest
import torch

from robustok.data.order import Windows, batch_indices


def test_an_epoch_visits_every_image_once():
    epoch = torch.cat([batch_indices(12, 4, seed=0, step=step) for step in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))


def test_the_rest_of_an_epoch_is_left_out():
    for first in (0, 3, 6):  # 11 // 3 = 3 batches an epoch
        epoch = torch.cat([batch_indices(11, 3, seed=0, step=first + step) for step in range(3)])
        assert len(set(epoch.tolist())) == 9


def test_order_depends_on_seed_and_epoch_alone():
    first, again = batch_indices(1000, 100, seed=1, step=7), batch_indices(1000, 100, seed=1, step=7)
    assert torch.equal(first, again)
    assert not torch.equal(first, batch_indices(1000, 100, seed=2, step=7))
    assert not torch.equal(first, batch_indices(1000, 100, seed=1, step=17))


def test_a_changed_batch_does_not_change_the_next_call():
    batch_indices(10, 5, seed=0, step=0).zero_()
    assert batch_indices(10, 5, seed=0, step=0).any()


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_that_cannot_be_filled_is_refused(batch_size):
    with pytest.raises(ValueError, match="choose a batch_size of 1 to 10"):
        batch_indices(10, batch_size, seed=0, step=0)


def test_windows_mix_some_shards_and_visit_each_once():
    windows = Windows((3, 5, 2, 6, 4), window=2)
    epochs = []
    for epoch in range(2):
        order = torch.cat([batch_indices(20, 4, 0, 5 * epoch + step, windows) for step in range(5)])
        assert sorted(order.tolist()) == list(range(20))
        shards = torch.tensor([0, 3, 8, 10, 16])
        seen = (torch.searchsorted(shards, order, right=True) - 1).tolist()
        first = seen[: max(place for place, shard in enumerate(seen) if shard == seen[0]) + 1]
        assert len(set(first)) <= 2  # the first shard is done before a third begins
        epochs.append(order.tolist())
    assert epochs[0] != epochs[1]
    with pytest.raises(ValueError, match="window is 0; give the number of shards to mix, 1 or more"):
        Windows((3,), window=0)


def test_a_window_over_all_shards_is_any_order():
    windows = Windows((10,) * 10, window=10)
    firsts = {int(batch_indices(100, 1, seed, 0, windows)) // 10 for seed in range(60)}
    assert firsts == set(range(10))
