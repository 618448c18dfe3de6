"""The Frechet term: real images of all classes, one space or several, each over its own distance."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustok.backbones.lite import LITE0, LITE2, Lite
from robustok.backbones.vgg import VGGHED, vgg_hed
from robustok.data.images import FashionMNIST
from robustok.losses.frechet import FrechetLoss
from robustok.losses.perceptual import Perceptual
from robustok.training import frechet_term
from robustok.training.frechet_term import channel_means
from robustok.training.objective import ImageLoss, Objective

CPU = torch.device("cpu")


def image_loss(objective: Objective) -> ImageLoss:
    return ImageLoss(objective, 10, seed=0, device=CPU, precision="fp32")


FRECHET = Objective(perceptual=0.0, perceptual_stages=3, adversarial=0.0, frechet=0.5)


@pytest.mark.parametrize("order", ["by class", "in turn"])
def test_the_frechet_term_observes_images_of_every_class(order: str, monkeypatch: pytest.MonkeyPatch):
    """Of 512 images 64 are observed; in the order of classes the first 64 would be of one class alone."""
    monkeypatch.setattr(frechet_term, "OBSERVED", 64)
    everything = FashionMNIST("train").subset(torch.arange(512))
    dark_first = everything.images(torch.arange(512)).mean(dim=(1, 2, 3)).argsort()
    order_of = {"by class": dark_first, "in turn": dark_first.view(2, 256).T.flatten()}
    images = FashionMNIST("train").subset(order_of[order])
    observed, seen = image_loss(FRECHET), []
    take = type(images).images
    monkeypatch.setattr(type(images), "images", lambda self, rows: seen.append(rows) or take(self, rows))
    observed.set_reference(images)
    (rows,) = seen
    assert len(rows.unique()) == 64
    brightness = (rows >= 256) if order == "by class" else rows % 2
    assert 20 <= brightness.sum() <= 44  # 32 of each, three standard deviations
    again, other = [], ImageLoss(FRECHET, 10, seed=1, device=CPU)
    for loss in (image_loss(FRECHET), other):
        loss.set_reference(images)
        again.append(seen[-1])
    assert torch.equal(again[0], rows)
    assert not torch.equal(again[1], rows)


def test_what_was_seen_of_images_is_kept_for_the_next_run_and_for_no_other_network(monkeypatch: pytest.MonkeyPatch):
    """Tries, a run and its control ask for the same; another network, size, seed or set sees anew."""
    images, looks = FashionMNIST("train").subset(torch.arange(32)), []
    take = type(images).images
    monkeypatch.setattr(type(images), "images", lambda self, rows: looks.append(self) or take(self, rows))
    first, again = image_loss(FRECHET), image_loss(FRECHET)
    for loss in (first, again):
        loss.set_reference(images)
    assert len(looks) == 1
    one, other = first.frechet.spaces["frechet"], again.frechet.spaces["frechet"]
    assert torch.equal(one.scale, other.scale)
    assert all(torch.equal(value, other.loss.state_dict()[name]) for name, value in one.loss.state_dict().items())
    others = [
        image_loss(replace(FRECHET, network=VGGHED())),
        image_loss(replace(FRECHET, perceptual_size=64)),
        ImageLoss(FRECHET, 10, seed=1, device=CPU),
    ]
    for count, loss in enumerate(others, start=2):
        loss.set_reference(images)
        assert len(looks) == count
    first.set_reference(FashionMNIST("train").subset(torch.arange(32)))
    assert len(looks) == 5


@pytest.mark.parametrize("rows", [[3], [3] * 8])
def test_images_that_are_all_the_same_are_refused_before_the_first_step(rows: list[int]):
    images = FashionMNIST("train").subset(torch.tensor(rows))
    with pytest.raises(ValueError, match=r"needs images that differ, and all of these . look alike; .*frechet to 0"):
        image_loss(FRECHET).set_reference(images)
    image_loss(replace(FRECHET, frechet=0.0)).set_reference(images)


def test_a_channel_that_never_changes_takes_part_as_it_is():
    """Before, it was divided by a spread of 0."""
    images = FashionMNIST("train").subset(torch.arange(16))
    ours = image_loss(FRECHET)
    levels = ours.perceptual.feature_maps
    still = torch.zeros(1, 3, 1, 1)
    ours.perceptual.feature_maps = lambda batch: (*levels(batch), (batch * still).mean(dim=(2, 3), keepdim=True) + 2.0)
    ours.set_reference(images)
    assert ours.frechet.spaces["frechet"].scale[-3:].tolist() == [1, 1, 1]
    real = images.images(torch.arange(16))
    _, terms = ours.loss(real, real, nn.Conv2d(3, 3, 1).weight, step=0)
    assert terms["frechet"] < 1e-4


def test_a_run_of_an_earlier_version_goes_on_where_the_same_images_are_observed(monkeypatch: pytest.MonkeyPatch):
    images = FashionMNIST("train").subset(torch.arange(16))
    ours = image_loss(FRECHET)
    ours.set_reference(images)
    state = ours.state_dict()
    del state["observed"]
    ours.load_state_dict(state)
    monkeypatch.setattr(frechet_term, "OBSERVED", 8)
    ours.set_reference(images)
    ours.load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match="begun by an earlier version, whose Frechet term compares with the first 8"):
        ours.load_state_dict(state)


def test_frechet_term_pulls_the_distribution_not_the_image():
    """Images in another order are as good as the right ones; a shift of all of them is charged and undone."""
    generator = torch.Generator().manual_seed(1)
    images = FashionMNIST("train").subset(torch.arange(64))
    real = images.images(torch.arange(64))
    ours = image_loss(Objective(l2=0.001, perceptual=0.0, perceptual_stages=3, adversarial=0.0, frechet=1.0))
    ours.set_reference(images)
    layer = nn.Conv2d(3, 3, 1)
    _, same = ours.loss(real, real[torch.randperm(64, generator=generator)], layer.weight, step=0)
    assert same["frechet"] < 1e-4  # of a spread of 64, in float32 features
    shift = torch.full((1, 3, 1, 1), 0.4, requires_grad=True)
    loss, shifted = ours.loss(real, real + shift, layer.weight, step=1)
    assert shifted["frechet"] > 0.1
    loss.backward()
    assert shift.grad.sum() > 0


SPACES = {"lite0": (Lite(LITE0), 3), "lite2": (Lite(LITE2), 3), "vgg-hed": (vgg_hed(), 3)}


def normalized(images: torch.Tensor, real: torch.Tensor, space: str) -> tuple[torch.Tensor, FrechetLoss]:
    """Features of images in units of the real ones' spread, and the loss that compares with these."""
    network, maps = SPACES[space]
    features = channel_means(network(real, maps).stages).double()
    varies = features.std(dim=0) > 1e-6 * features.abs().max()
    scale = torch.where(varies, features.std(dim=0), 1)
    loss = FrechetLoss((features / scale).mean(dim=0), (features / scale).T.cov(correction=0), 0.9)
    return channel_means(network(images, maps).stages) / scale, loss


def test_several_spaces_pull_alike_each_over_its_own_distance():
    """The gradient is the mean of those of log distances, whose sizes differ much; so for two steps' average."""
    images = FashionMNIST("train").subset(torch.arange(24))
    real = images.images(torch.arange(24))
    ours = image_loss(replace(FRECHET, l2=0.0, frechet=0.5, frechet_spaces=("lite0", "lite2", "vgg-hed")))
    ours.set_reference(images)
    layer, theirs = nn.Conv2d(3, 3, 1), {space: normalized(real, real, space)[1] for space in SPACES}
    for step, strength in enumerate((0.3, 0.8)):
        output = (real * strength).requires_grad_()
        loss, terms = ours.loss(real, output, layer.weight, step)
        (got,) = torch.autograd.grad(loss, output)
        logs = []
        for space, compare in theirs.items():
            distance = compare(normalized(output, real, space)[0])
            torch.testing.assert_close(terms[f"frechet_{space}"], distance.float().detach(), rtol=1e-3, atol=1e-6)
            logs.append((distance + 0.01).log())
        (wanted,) = torch.autograd.grad(0.5 * sum(logs) / 3, output)
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-6)
    assert terms.keys() == {"frechet_lite0", "frechet_lite2", "frechet_vgg-hed"}


@pytest.mark.parametrize(("network", "name"), [(None, "lite0"), (VGGHED(), "vgg-hed")])
def test_one_space_that_the_perceptual_term_sees_with_costs_nothing(
    network: VGGHED | None, name: str, monkeypatch: pytest.MonkeyPatch
):
    """To the bit what it is unnamed, with as many looks."""
    looked, forward = [], Perceptual.feature_maps
    monkeypatch.setattr(Perceptual, "feature_maps", lambda *a: looked.append(1) or forward(*a))
    images, layer = FashionMNIST("train").subset(torch.arange(8)), nn.Conv2d(3, 3, 1)
    real, found = images.images(torch.arange(8)), []
    for spaces in ((), (name,)):
        config = replace(FRECHET, perceptual=1.0, frechet_spaces=spaces, **({"network": network} if network else {}))
        ours = image_loss(config)
        ours.set_reference(images)
        looked.clear()
        output = (real * 0.5).requires_grad_()
        loss, terms = ours.loss(real, output, layer.weight, step=0)
        found.append((loss, terms, torch.autograd.grad(loss, output)[0], len(looked)))
    (loss, terms, gradient, looks), (again, others, same, as_many) = found
    assert looks == as_many == 2
    assert torch.equal(loss, again)
    assert torch.equal(gradient, same)
    assert terms == others


def test_a_space_of_its_own_needs_no_perceptual_network():
    ours = image_loss(replace(FRECHET, frechet_spaces=("lite2",)))
    assert ours.perceptual is None
    images = FashionMNIST("train").subset(torch.arange(8))
    ours.set_reference(images)
    _, terms = ours.loss(images.images(torch.arange(8)), torch.zeros(8, 3, 32, 32), nn.Conv2d(3, 3, 1).weight, step=0)
    assert terms["frechet"] > 0.1


def test_averages_of_several_spaces_are_saved_and_taken_over():
    images = FashionMNIST("train").subset(torch.arange(8))
    real, layer = images.images(torch.arange(8)), nn.Conv2d(3, 3, 1)
    config = replace(FRECHET, frechet_spaces=("lite0", "lite2"))
    found = []
    first, second = image_loss(config), image_loss(config)
    for ours in (first, second):
        ours.set_reference(images)
    first.loss(real, real * 0.5, layer.weight, step=0)
    second.load_state_dict(first.state_dict())
    for ours in (first, second):
        found.append(ours.loss(real, real * 0.9, layer.weight, step=1)[1])
    assert found[0] == found[1]
    fresh = image_loss(config)
    fresh.set_reference(images)
    assert fresh.loss(real, real * 0.9, layer.weight, step=1)[1] != found[0]


def test_senseless_spaces_are_refused():
    with pytest.raises(
        ValueError, match=r"frechet_spaces names 'inception', 'lite9'; choose from lite0, lite2, vgg-hed$"
    ):
        Objective(frechet=1.0, frechet_spaces=("lite0", "inception", "lite9"))
    with pytest.raises(ValueError, match=r"lite0, lite0; name each space once"):
        Objective(frechet=1.0, frechet_spaces=("lite0", "lite0"))
    with pytest.raises(ValueError, match=r"frechet_spaces is lite0, lite2, but the Frechet term has no weight"):
        Objective(frechet_spaces=("lite0", "lite2"))
    with pytest.raises(ValueError, match=r"perceptual_stages is 1, .* all maps but the finest; ask for 2 or more"):
        Objective(frechet=1.0, perceptual_stages=1)
