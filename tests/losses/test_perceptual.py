"""The perceptual distance on hand-made features, and on the real network."""

import pytest
import torch
from torch import Tensor, nn

from robustok.backbones.frozen import FeatureMaps
from robustok.backbones.lite import Lite
from robustok.losses.perceptual import Perceptual, gram_distance, unit_length


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Raw(nn.Module):
    """The image itself as every feature map."""

    def forward(self, images: Tensor, stages: int) -> FeatureMaps:
        return FeatureMaps((images,) * stages, None)


def colored(*rows: str) -> Tensor:
    """An image of rows that are each of one color, of any strength."""
    image = torch.zeros(1, 3, len(rows), 4)
    for row, color in enumerate(rows):
        image[0, "rgb".index(color), row] = row + 0.5
    return image


def test_the_gram_distance_knows_what_there_is_not_where():
    """By hand: the Gram matrix of unit features that are one color each has the colors' fractions on its diagonal."""
    red, mixed = colored("r", "r", "r", "r"), colored("r", "g", "g", "b")
    assert gram_distance((red,), (colored("g", "g", "g", "g"),)).item() == pytest.approx(2)  # the most there can be
    assert gram_distance((red,), (mixed,)).item() == pytest.approx(0.75**2 + 0.5**2 + 0.25**2)
    assert gram_distance((red, red), (mixed, red)).item() == pytest.approx(0.875)  # a sum over maps
    both = torch.cat([mixed, red])
    assert gram_distance((torch.cat([red, red]),), (both,)).item() == pytest.approx(0.875 / 2)  # a mean over images
    assert gram_distance((mixed,), (colored("g", "b", "r", "g"),)).item() == pytest.approx(0, abs=1e-12)
    assert gram_distance((red,), (-7 * red,)).item() == pytest.approx(0, abs=1e-12)


def test_the_gram_distance_is_that_of_outer_products():
    """Off the diagonal too: Johnson et al. 2016, eq. 3, of unit features, written as loops."""
    one, other = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1)
    whole = 0.0
    for theirs, ours in zip(unit_length(one), unit_length(other), strict=True):
        grams = []
        for image in (theirs, ours):
            columns = [image[:, y, x] for y in range(4) for x in range(5)]
            grams.append(sum(torch.outer(column, column) for column in columns) / 20)
        whole += (grams[0] - grams[1]).square().sum().item() / 2
    assert gram_distance((one,), (other,)).item() == pytest.approx(whole, rel=1e-5)
    still = torch.zeros(1, 3, 4, 4, requires_grad=True)
    gram_distance((one[:1],), (still,)).backward()
    assert still.grad.isfinite().all()


def test_orthogonal_features_are_at_distance_two_on_each_level():
    red = torch.zeros(2, 3, 4, 4).index_fill(1, torch.tensor([0]), 0.5)
    green = torch.zeros(2, 3, 4, 4).index_fill(1, torch.tensor([1]), 3.0)
    assert Perceptual(Raw(), maps=1)(red, green).item() == pytest.approx(2)
    assert Perceptual(Raw(), maps=3)(red, green).item() == pytest.approx(3 * 2)
    assert Perceptual(Raw(), maps=3)(red, -red).item() == pytest.approx(3 * 4)  # the most there can be


def test_only_the_direction_of_features_counts():
    target, output = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    distance = Perceptual(Raw(), maps=2)
    assert distance(target, 5 * output).item() == pytest.approx(distance(target, output).item(), rel=1e-5)


def test_unit_length_of_zero_is_zero_with_a_finite_gradient():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit = unit_length(features)
    unit.sum().backward()
    assert unit.abs().max() == 0
    assert features.grad.isfinite().all()


def test_equal_images_are_at_distance_zero_and_others_further_the_more_they_differ():
    distance = Perceptual(Lite())
    images, change = noise(4, 3, 32, 32), noise(4, 3, 32, 32, seed=1)
    values = [distance(images, images + amount * change).item() for amount in (0, 0.05, 0.2, 0.8)]
    assert values[0] == 0
    assert values == sorted(values)
    assert 0 < values[1] < values[3] < 4 * 4


def test_a_precomputed_target_changes_nothing():
    distance = Perceptual(Lite(), maps=3)
    target, output = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    assert torch.equal(distance(distance.feature_maps(target), output), distance(target, output))


def test_gradient_flows_to_the_output_and_not_to_a_target_image():
    target, output = noise(2, 3, 32, 32).requires_grad_(), noise(2, 3, 32, 32, seed=1).requires_grad_()
    Perceptual(Lite(), maps=3)(target, output).backward()
    assert target.grad is None
    assert output.grad.abs().sum() > 0


def test_images_are_resized_when_a_size_is_given():
    target, output = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    levels = Perceptual(Lite(), maps=5, size=64).feature_maps(target)
    assert [level.shape[-1] for level in levels] == [32, 16, 8, 4, 2]
    at_its_size, unresized = Perceptual(Lite(), maps=2, size=32), Perceptual(Lite(), maps=2)
    assert torch.equal(at_its_size(target, output), unresized(target, output))


def test_it_has_nothing_to_train_or_save():
    assert list(Perceptual(Lite()).parameters()) == []
    assert Perceptual(Lite()).state_dict() == {}
