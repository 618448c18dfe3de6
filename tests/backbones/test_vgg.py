"""VGG-16's maps against the same layers of torch.nn, and its refusals."""

import pytest
import torch
from tests.backbones.published import vgg_state
from torch import Tensor, nn

from robustok.backbones.vgg import CONVS, Vgg16

WIDTHS = (4, 6, 8, 10, 10)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def torchvision_features(state: dict[str, Tensor]) -> nn.Sequential:
    """The layers by their numbers in torchvision's `features`: a ReLU after each convolution, then a pooling."""
    layers: list[nn.Module] = []
    before = 3
    for width, numbers in zip(WIDTHS, CONVS, strict=True):
        for _ in numbers:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    network = nn.Sequential(*layers)
    network.load_state_dict({key.removeprefix("features."): tensor for key, tensor in state.items()})
    return network


@pytest.mark.parametrize("size", [(32, 32), (19, 37)])
def test_maps_are_those_after_the_last_relu_of_each_stage(size: tuple[int, int]):
    state = vgg_state(WIDTHS)
    images = noise(2, 3, *size)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of values in [0, 1]
    layers = torchvision_features(state)
    x = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    stages = Vgg16(state)(images).stages
    for (first, last), ours in zip(((0, 4), (4, 9), (9, 16), (16, 23), (23, 30)), stages, strict=True):
        x = layers[first:last](x)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_stopping_early_gives_the_same_maps():
    network, images = Vgg16(vgg_state(WIDTHS)), noise(1, 3, 16, 16)
    full = network(images).stages
    for count in range(1, 6):
        assert all(torch.equal(a, b) for a, b in zip(network(images, count).stages, full, strict=False))
        assert len(network(images, count).stages) == count


def test_nothing_is_trained_or_saved_and_the_classifier_is_not_needed():
    state = {**vgg_state(WIDTHS), "classifier.0.weight": torch.zeros(1)}
    network = Vgg16(state)
    images = noise(1, 3, 16, 16).requires_grad_()
    network(images).stages[-1].sum().backward()
    assert images.grad.abs().sum() > 0
    assert list(network.parameters()) == []
    assert network.state_dict() == {}


def test_refusals():
    state = vgg_state(WIDTHS)
    network = Vgg16(state)
    with pytest.raises(ValueError, match="stages is 6, but this VGG-16 has 5; ask for 1 to 5"):
        network(noise(1, 3, 16, 16), 6)
    with pytest.raises(ValueError, match="5 stages of VGG-16 need sides of 16 pixels or more, but an image has 15"):
        network(noise(1, 3, 15, 40))
    del state["features.28.bias"]
    with pytest.raises(ValueError, match=r"1 of 26 missing \['features.28.bias'\]; take torchvision's vgg16"):
        Vgg16(state)
