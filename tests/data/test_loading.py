"""Batches: the very next image after a stop, every image once over all ranks, and nothing depends on threads."""

import threading
import time
from typing import NamedTuple

import pytest
import torch
from tests.data import some_shards

from robustok.data import ImageFolder, open_images
from robustok.data.image_files import ImageFiles
from robustok.data.images import hold_out
from robustok.data.loading import cached_batch, prefetched, training_batch
from robustok.data.order import batch_indices

SIZE, BATCH, SEED = 16, 7, 3


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same pictures from everywhere, opened anew by each call."""
    root = tmp_path_factory.mktemp("sets")
    folder = some_shards.write_folder(root / "folder")
    tars = some_shards.write_tars(root / "tars")
    parquet = some_shards.write_parquet(root / "parquet")
    return {
        "folder": lambda **how: ImageFolder(folder, SIZE, errors="defer", **how),
        "tars": lambda **how: open_images(tars, SIZE, **how),
        "tars in windows": lambda **how: open_images(tars, SIZE, window=2, **how),
        "parquet": lambda **how: open_images(parquet, SIZE, window=3, **how),
    }


KINDS = ("folder", "tars", "tars in windows", "parquet")


def epoch(images: ImageFiles, first: int, last: int) -> torch.Tensor:
    return torch.cat([training_batch(images, BATCH, SEED, step) for step in range(first, last)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_with_the_very_next_image(kind, sets):
    steps = 2 * (some_shards.COUNT // BATCH) + 1  # into the third epoch
    straight = epoch(sets[kind](), 0, steps)
    for stop in (1, 2, 6):  # within the first epoch and the second
        again = epoch(sets[kind](workers=3), stop, steps)
        assert torch.equal(again, straight[stop * BATCH :])


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_a_batch_without_overlap_and_give_what_one_gives(kind, sets):
    images = sets[kind]()
    whole = training_batch(images, BATCH, SEED, step=5)
    parts = [training_batch(images, BATCH, SEED, 5, slice(*rows)) for rows in ((0, 3), (3, 5), (5, 7))]
    assert torch.equal(torch.cat(parts), whole)
    places = torch.tensor([6, 0, 3])
    assert torch.equal(training_batch(images, BATCH, SEED, 5, places), whole[places])


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_every_image_once_over_all_ranks(kind, sets):
    images, seen = sets[kind](flip=False), []
    for step in range(some_shards.COUNT // 6):
        indices = batch_indices(len(images), 6, SEED, step, images.windows)
        seen += [indices[rank::2] for rank in range(2)]
    assert sorted(torch.cat(seen).tolist()) == list(range(some_shards.COUNT))


def test_the_same_images_come_from_everywhere(sets):
    everything = torch.arange(some_shards.COUNT)
    folder, *others = (sets[kind]() for kind in KINDS)
    assert folder.classes == some_shards.CLASSES
    for images in others:
        assert torch.equal(images.images(everything), folder.images(everything))
        assert torch.equal(images.labels, folder.labels)
    assert len({str(images.describe()) for images in (folder, *others)}) == 3  # a window changes no image
    assert others[-1].classes == some_shards.CLASSES


def test_images_do_not_depend_on_the_number_of_threads(sets):
    for kind in KINDS:
        one, many = (training_batch(sets[kind](workers=count), BATCH, SEED, 1) for count in (1, 5))
        assert torch.equal(one, many)


def test_what_is_held_out_of_shards_leaves_windows(sets):
    images = sets["tars in windows"]()
    rest, held = hold_out(images, 10)
    assert rest.windows is not None
    assert sum(rest.windows.sizes) == 20
    assert images.subset(torch.tensor([3, 1])).windows is None
    order = torch.cat([batch_indices(len(rest), 4, SEED, step, rest.windows) for step in range(5)])
    assert sorted(order.tolist()) == list(range(20))
    assert training_batch(held, 5, SEED, 0).shape == (5, 3, SIZE, SIZE)


class Views:
    """A cache whose tokens are image and view."""

    views = 4

    def __len__(self):
        return 20

    def at(self, indices, views):
        return torch.stack([indices, views], 1), indices


@pytest.mark.usefixtures("unchecked")
def test_views_of_a_cache_are_drawn_for_the_whole_batch():
    whole, labels = cached_batch(Views(), 8, SEED, 3)
    assert torch.equal(labels, batch_indices(20, 8, SEED, 3))
    assert whole[:, 1].unique().tolist() == [0, 1, 2, 3]
    rows = torch.tensor([7, 2])
    part, _ = cached_batch(Views(), 8, SEED, 3, rows)
    assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("ahead", [1, 3])
def test_batches_are_made_ahead_and_come_in_turn(ahead):
    made, enough = [], threading.Event()

    def make(step: int) -> tuple[int, torch.Tensor]:
        time.sleep(0.002 * (step % 3))  # later ones may be ready first
        made.append(step)
        if len(made) >= ahead + 1:
            enough.set()
        return step, torch.tensor(step)

    batches = prefetched(make, 2, 12, ahead=ahead)
    assert next(batches)[0] == 2
    assert enough.wait(5)  # without anyone asking
    assert [step for step, _ in batches] == list(range(3, 12))
    assert sorted(made) == list(range(2, 12))
    assert list(prefetched(make, 5, 5)) == []
    with pytest.raises(ValueError, match="ahead is 0; give the number of batches"):
        next(prefetched(make, 0, 1, ahead=0))


def test_what_goes_wrong_is_raised_in_its_turn_and_threads_end():
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("a broken image")
        return step

    batches = prefetched(make, 0, 100, ahead=4)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="a broken image"):
        next(batches)
    left = prefetched(make, 4, 100, ahead=2)
    next(left)
    left.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_with_a_gpu_tensors_are_pinned_wherever_they_are(monkeypatch):
    class Pinned(NamedTuple):
        tokens: torch.Tensor
        name: str

    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(int(tensor)) or tensor)
    batches = prefetched(lambda step: (Pinned(torch.tensor(step), "a"), [torch.tensor(10 + step)], 1), 0, 6)
    first, rest = next(batches), list(batches)
    assert (first[0].name, first[1][0].item(), first[2], len(rest)) == ("a", 10, 1, 5)
    assert sorted(pinned) == [*range(6), *range(10, 16)]
