import hashlib
import re
from importlib import resources

import numpy as np
import pytest
import torch

from robustok.data import FashionMNIST, FluentEmoji, hold_out
from robustok.data.images import DRAWS, evenly_ordered
from robustok.shapes import to_pixels


def draws(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_fashion_mnist_has_its_published_counts():
    train, validation = FashionMNIST("train"), FashionMNIST("validation")
    assert train.labels.bincount().tolist() == [6000] * 10
    assert validation.labels.bincount().tolist() == [1000] * 10
    assert len(train.classes) == 10


def test_fashion_mnist_files_are_the_original_ones():
    folder = resources.files("robustok.data") / "fashion_mnist"
    table = re.findall(r"`(\S+\.gz)` \| (\d+) \| `(\w+)`", (folder / "README.md").read_text())
    assert len(table) == 4
    for name, size, digest in table:
        content = (folder / name).read_bytes()
        assert (str(len(content)), hashlib.sha256(content).hexdigest()) == (size, digest)


def test_fashion_mnist_is_padded_with_its_background():
    images = FashionMNIST("validation")
    batch = images.images(torch.tensor([0, 5]))
    assert batch.shape == (2, 3, 32, 32)
    assert torch.equal(to_pixels(batch)[:, 1, 2:30, 2:30], images.pixels[[0, 5]])
    assert batch[:, :, :2].eq(-1).all()
    assert batch[:, :, :, 30:].eq(-1).all()
    assert FashionMNIST("validation", size=28).images(torch.tensor([0])).shape == (1, 3, 28, 28)
    assert torch.equal(images.training_images(torch.tensor([0, 5]), draws(2)), batch)


def test_fashion_mnist_shoes_point_left():
    images = FashionMNIST("validation")
    for name in ("Sandal", "Sneaker", "Ankle boot"):
        shoes = images.pixels[images.labels == images.classes.index(name)].float().flatten(1)
        shoes = shoes - shoes.mean(1, keepdim=True)
        mean = shoes.mean(0).view(28, 28)
        unlike_mirror = (shoes @ mean.flatten() > shoes @ mean.flip(1).flatten()).float().mean()
        assert unlike_mirror > 0.9  # else a mirror image could be used in training


@pytest.mark.usefixtures("unchecked")
def test_fashion_mnist_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="split is 'test'; choose 'train' or 'validation'"):
        FashionMNIST("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size is 27; .* ask for 28 or more"):
        FashionMNIST("train", size=27)


def test_describe_tells_sets_apart():
    train, validation = FashionMNIST("train").describe(), FashionMNIST("validation").describe()
    assert (train["split"], train["count"]) == ("train", 60000)
    assert train["hash"] != validation["hash"]
    assert validation == FashionMNIST("validation").describe()


def test_subset_keeps_order_and_says_so():
    images = FashionMNIST("validation")
    part = images.subset(torch.tensor([7, 3, 9]))
    assert torch.equal(part.labels, images.labels[[7, 3, 9]])
    assert torch.equal(part.images(torch.tensor([1, 0])), images.images(torch.tensor([3, 7])))
    assert torch.equal(part.training_images(torch.tensor([2]), draws(1)), images.images(torch.tensor([9])))
    again = part.subset(torch.tensor([2]))
    assert torch.equal(again.images(torch.tensor([0])), images.images(torch.tensor([9])))
    other = images.subset(torch.tensor([3, 7, 9]))
    assert part.describe()["count"] == 3
    assert len({s.describe()["hash"] for s in (images, part, again, other)}) == 4


@pytest.mark.parametrize("indices", [[], [0, 10_000], [-1]])
def test_subset_refuses_indices_out_of_range(indices):
    told = f"not {min(indices)} to {max(indices)}$" if indices else "not none$"
    with pytest.raises(ValueError, match=f"one or more indices from 0 to 9999, {told}"):
        FashionMNIST("validation").subset(torch.tensor(indices, dtype=torch.int64))


@pytest.mark.parametrize("order", ["as it is", "one class after the other", "classes in turn"])
def test_hold_out_takes_the_same_share_of_every_class(order):
    """Classes in turn, of which evenly spaced images see only some, among them."""
    images = FashionMNIST("validation")
    by_class = images.labels.argsort(stable=True)
    orders = {
        "as it is": torch.arange(len(images)),
        "one class after the other": by_class,
        "classes in turn": by_class.view(10, -1).T.flatten(),
    }
    for count in (1000, 2000, 2500):
        rest, held = hold_out(images.subset(orders[order]), count)
        assert held.labels.bincount().tolist() == [count // 10] * 10
        assert len(rest) + len(held) == len(images)


def test_what_is_held_out_is_not_in_the_rest():
    rest, held = hold_out(FashionMNIST("validation"), 2000)
    assert sorted(rest.indices.tolist() + held.indices.tolist()) == list(range(10_000))
    with pytest.raises(ValueError, match="cannot hold out 10000 of 10000 images; choose 1 to 9999"):
        hold_out(FashionMNIST("validation"), 10_000)


def test_evenly_ordered_images_have_the_same_share_of_every_class_wherever_they_are_cut():
    validation = FashionMNIST("validation")
    counts = (600, 300, 100)
    rows = torch.cat([(validation.labels == label).nonzero().flatten()[:n] for label, n in enumerate(counts)])
    ordered = evenly_ordered(validation.subset(rows))
    assert ordered.indices.sort().values.tolist() == list(range(1000))
    for cut in (10, 50, 333, 990):
        for part in (ordered.labels[:cut], ordered.labels[-cut:]):
            shares = part.bincount(minlength=3) - cut * torch.tensor(counts) / 1000
            assert shares.abs().max() <= 1
    assert ordered.indices[ordered.labels == 0].diff().min() < 0, "within a class they are mixed"


SETS = [FashionMNIST, FluentEmoji]


@pytest.mark.parametrize("kind", SETS)
def test_indices_come_in_a_list_or_an_array_but_not_as_a_mask(kind, unchecked):
    """A mask such as `images.labels == 3` would be images 0 and 1 over and over."""
    images = kind("validation")
    wanted = images.images(torch.tensor([3, 5]))
    for indices in ([3, 5], np.array([3, 5])):
        assert torch.equal(images.images(indices), wanted)
        assert torch.equal(images.subset(indices).images(torch.arange(2)), wanted)
    for ask in (images.subset, images.images):
        with pytest.raises(ValueError, match="of a mask give mask.nonzero"):
            ask(images.labels == 3)
        with pytest.raises(ValueError, match="give whole numbers in a row"):
            ask(torch.tensor([0.0, 1.5]))


def test_counts_and_sides_are_whole_numbers_of_any_kind(unchecked):
    images = FashionMNIST("validation", np.int64(32))
    assert (images.size, FluentEmoji("validation", np.int64(32)).size) == (32, 32)
    assert len(hold_out(images, np.int64(5))[1]) == 5
    for count in (5.0, "5", True):
        with pytest.raises(ValueError, match=f"cannot hold out {count!r} of 10000 images; choose 1 to 9999"):
            hold_out(images, count)
    with pytest.raises(ValueError, match="cannot hold out 1 of 1 images; give more images"):
        hold_out(images.subset([0]), 1)
    with pytest.raises(ValueError, match="size is 32.0; the images are 28 pixels wide"):
        FashionMNIST("validation", 32.0)
