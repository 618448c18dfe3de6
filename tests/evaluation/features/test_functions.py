"""Functions of the user as feature spaces: told apart, and networks used as when nothing is trained."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from tests.evaluation.scored import Blocks, Noise, shades
from torch import nn

from robustok.evaluation.features.extractor import CustomExtractor, from_numpy, outputs
from robustok.evaluation.features.functions import name_of
from robustok.evaluation.scores.image_scores import score_images
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer

PIXELS = torch.randint(256, (4, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """What behaves otherwise while it is trained."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels.float() / 255).mean(dim=(2, 3))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self(pixels)


class Described(Net):
    """A network that is an extractor itself."""

    name = "described"

    def describe(self):
        return {"features": self.name}


def calling(net: nn.Module) -> CustomExtractor:
    def features(pixels: torch.Tensor) -> torch.Tensor:
        return net(pixels)

    return CustomExtractor(features)


MADE = [
    lambda net: net,
    CustomExtractor,
    lambda net: CustomExtractor(net.features),
    lambda net: CustomExtractor(lambda pixels: net(pixels)),
    lambda net: CustomExtractor(partial(lambda pixels, by: net(pixels) * by, by=2)),
    calling,
    lambda net: from_numpy(lambda images: net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()),
]


@pytest.mark.parametrize("made", MADE)
def test_a_network_is_used_in_evaluation_mode_and_left_as_it_was(made):
    net = Described()
    before = copy.deepcopy(net.state_dict())
    one, other = (outputs(made(net), PIXELS).features for _ in range(2))
    assert torch.equal(one, other)
    assert net.training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_scores_in_the_space_of_a_network_in_training_are_the_same_each_time():
    net = Net()
    one, other = (score_tokenizer(Blocks(), Noise(30), net) for _ in range(2))
    assert [score.value for score in one] == [score.value for score in other]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_frozen_by_torchscript_has_no_mode():
    net = Net().eval()
    features = CustomExtractor(torch.jit.freeze(torch.jit.script(net)))(PIXELS)
    torch.testing.assert_close(features, net(PIXELS).detach())


def powers(exponent: float) -> object:
    return lambda pixels: shades(pixels) ** exponent


LAMBDAS = {
    "mean": lambda pixels: pixels.float().mean(dim=(2, 3)),
    "std": lambda pixels: pixels.float().std(dim=(2, 3)),
    "a constant": lambda pixels: pixels.float().mean(dim=(2, 3)) * 2,
    "within": lambda pixels: torch.stack([(lambda image: image.float().mean((1, 2)))(one) for one in pixels]),
    "another within": lambda pixels: torch.stack(
        [(lambda image: image.float().mean((1, 2)) + 1)(one) for one in pixels]
    ),
    "closure": powers(1.0),
    "another closure": powers(2.0),
    "default": lambda pixels, shift=1: shades(pixels) + shift,
    "another default": lambda pixels, shift=2: shades(pixels) + shift,
    "a partial one": partial(lambda pixels, by: shades(pixels) * by, by=2),
    "another partial one": partial(lambda pixels, by: shades(pixels) * by, by=3),
}


def test_lambdas_are_told_apart():
    assert len({name_of(function) for function in LAMBDAS.values()}) == len(LAMBDAS)
    assert name_of(powers(1.0)) == name_of(powers(1.0))
    assert name_of(lambda pixels: pixels.float()) == name_of(lambda pixels: pixels.float())  # wherever they stand


def test_lambdas_are_told_apart_by_the_networks_they_call():
    def calling(net: nn.Module) -> str:
        return name_of(lambda pixels: net(pixels))

    assert calling(Net(0)) == calling(Net(0)) != calling(Net(1))
    arrays = [from_numpy(lambda images, by=by: images.mean((1, 2)) * by).name for by in (np.ones(3), np.zeros(3))]
    assert arrays[0] != arrays[1]


def test_what_a_lambda_fills_while_it_is_used_does_not_tell_it_apart():
    seen, by_name = [], {}

    def noting():
        return name_of(lambda pixels: (seen.append(pixels), by_name.update(a=pixels), shades(pixels))[-1])

    before = noting()
    seen.append(1)
    by_name["a"] = 2
    assert noting() == before


def test_a_function_keeps_its_name():
    assert name_of(shades) == CustomExtractor(shades).describe()["features"] == "shades"
    assert name_of(partial(torch.flatten, start_dim=1)) == "flatten(start_dim=1)"
    assert CustomExtractor(Net(), "own").describe()["features"] == "own"


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        (
            LAMBDAS["mean"],
            LAMBDAS["std"],
            r"computed with features '<lambda \w{8}>', the images to score with '<lambda",
        ),
        (Net(0), Net(1), r"computed with weights '\w{16}', the images to score with '\w{16}'"),
    ],
)
def test_what_two_functions_make_is_not_compared(one, other, match):
    reference = Reference.of(Noise(40), one)
    assert score_images(Noise(40, seed=1), reference, one).value > 0
    with pytest.raises(ValueError, match=match):
        score_images(Noise(40, seed=1), reference, other)
