import numpy as np
import pytest
import torch

from robustok.backbones.lite import Lite
from robustok.evaluation.features.extractor import (
    CustomExtractor,
    Extractor,
    NetworkExtractor,
    Outputs,
    outputs,
    resize,
)
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.shapes import to_images


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(256, (6, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_lite0_is_the_pooled_vector_of_the_resized_image(pixels):
    extract = lite0(32)
    resized = torch.nn.functional.interpolate(to_images(pixels), size=(32, 32), mode="bilinear", antialias=True)
    features = extract(pixels)
    assert features.shape == (6, 1280)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, Lite()(resized).pooled, rtol=1e-4, atol=1e-5)


HELD_OUT = {"lite2": (1280, 64, 260), "vgg-hed": (256, 32, 224)}  # features, smallest and largest side


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_spaces_see_images_at_their_own_size_within_limits(name):
    width, smallest, largest = HELD_OUT[name]
    extract = extractor(name)
    assert extract.name == name
    assert f"{smallest} to {largest} pixels" in extract.describe()["resize"]
    seen = []
    extract.network.network.register_forward_pre_hook(lambda _module, args: seen.append(tuple(args[0].shape[-2:])))
    for sides in ((28, 20), (70, 100), (10, 300)):
        noise = torch.randint(256, (1, 3, *sides), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        features = extract(noise)
        assert features.shape == (1, width)
        assert torch.equal(features, extract(noise))
    assert sorted(set(seen)) == [(side, side) for side in (smallest, 100, largest)]


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_spaces_see_every_channel_and_where_classes_differ(name):
    dark, bright = (torch.full((1, 3, 32, 32), value, dtype=torch.uint8) for value in (20, 220))
    extract, plain = extractor(name), extractor(name)(dark)
    for channel in range(3):
        other = dark.clone()
        other[:, channel] = bright[:, channel]
        assert (extract(other) - plain).norm() > 0.02 * plain.norm()


def test_each_image_on_its_own(pixels):
    whole, parts = lite0(32)(pixels), lite0(32, batch_size=4)(pixels)
    flipped = lite0(32, batch_size=1)(pixels.flip(0)).flip(0)
    # float32 convolutions add in another order for another batch size: 1e-6 of the features' size
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flipped, whole, rtol=1e-4, atol=1e-5)


def test_how_many_images_come_together_changes_nothing():
    noise = torch.randint(256, (37, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extract = lite0(32)
    whole = extract(noise)
    for count in (1, 5, 17, 36):
        parts = torch.cat([extract(part) for part in noise.split(count)])
        assert (parts - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_images_of_the_right_size_are_not_touched():
    images = torch.rand(1, 3, 16, 16)
    assert resize(images, 16) is images
    assert resize(images, 8).shape == (1, 3, 8, 8)


def test_shrinking_looks_at_every_pixel():
    checkers = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(1, 3, -1, -1)
    torch.testing.assert_close(resize(checkers, 8)[..., 2:-2, 2:-2], torch.full((1, 3, 4, 4), 0.5))


def test_says_what_it_is():
    about = lite0(48).describe()
    assert about["features"] == "lite0@48"
    assert extractor("lite0@48").describe() == about
    assert extractor("lite0").describe()["features"] == lite0().describe()["features"] == "lite0"  # at 64 pixels
    for wrong in ("lite0@", "lite0@x", "lite0@-64", "lite0@64:w.pth", "inception@96"):
        with pytest.raises(ValueError, match="there is no feature space"):
            extractor(wrong)
    assert about["resize"] == "bilinear, antialiased, to 48 pixels"
    assert len(about["weights"]) == 16


def test_any_function_is_an_extractor(pixels):
    def mean_color(pixels):
        return pixels.double().mean(dim=(2, 3))

    extract = extractor(mean_color)
    assert isinstance(extract, Extractor)
    assert extract.describe() == {"features": "mean_color"}
    assert extract(pixels).dtype == torch.float32
    assert extractor(extract) is extract
    assert extractor("lite0").name == "lite0"


def test_refuses_what_is_no_pixels(pixels):
    for extract in (lite0(32), CustomExtractor(lambda pixels: pixels.float().mean(dim=(2, 3)))):
        with pytest.raises(ValueError, match="uint8 pixels, not from torch.float32; .*to_pixels"):
            extract(pixels / 255)
        with pytest.raises(ValueError, match=r"\(images, 3, height, width\), not \(6, 1, 40, 40\)"):
            extract(pixels[:, :1])
        with pytest.raises(ValueError, match=r"no pixel in a batch of shape \(0, 3, 40, 40\)"):
            extract(pixels[:0])


def test_metrics_get_all_that_a_space_has_from_one_pass(pixels):
    calls = []

    def probabilities(network, _inputs, result):
        calls.append(len(result.features))

    class Both(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> Outputs:
            means = pixels.float().mean(dim=(2, 3))
            return Outputs(means, spatial=pixels[:, 0, 0].float())

    extract = NetworkExtractor(Both(), {"features": "both"}, batch_size=4)
    extract.network.register_forward_hook(probabilities)
    features, logits, spatial, _ = outputs(extract, pixels)
    assert calls == [4, 4]  # the last two are filled up
    assert torch.equal(features, extract(pixels))
    assert logits is None
    assert torch.equal(spatial, pixels[:, 0, 0].float())
    assert outputs(CustomExtractor(lambda pixels: pixels.float().mean(dim=(2, 3))), pixels).logits is None


def test_refuses_features_of_another_shape(pixels, unchecked):
    with pytest.raises(ValueError, match=r"maps made a \(6, 3, 40, 40\) tensor .* shape \(6, features\)"):
        CustomExtractor(lambda pixels: pixels.float(), "maps")(pixels)


@pytest.mark.parametrize("name", ["dino", "", "lite0:mine.pth", "lite2:mine.pth", "vgg-hed:mine.h5", "Inception"])
def test_an_unknown_name_lists_the_known_ones(name: str):
    with pytest.raises(
        ValueError, match=f"no feature space '{name}'; choose lite0, .* mae or convnextv2, all but lite0, "
    ):
        extractor(name)


class InNumpy:
    """An extractor of somebody else: mean colors as an array."""

    name = "in numpy"

    def __init__(self, kind: str = "float32"):
        self.kind = kind

    def __call__(self, pixels):
        return pixels.numpy().mean(axis=(2, 3)).astype(self.kind)

    def describe(self):
        return {"features": self.name}


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: made.__call__])
def test_arrays_of_numpy_are_features(pixels, kind, wrap):
    extract = extractor(wrap(InNumpy(kind)))
    features, logits, spatial, _ = outputs(extract, pixels)
    assert (features.dtype, logits, spatial) == (torch.float32, None, None)
    torch.testing.assert_close(features, pixels.float().mean(dim=(2, 3)), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (np.zeros(6, dtype=np.float32), r"a \(6,\) array of float32"),
        (np.zeros((6, 3), dtype=np.int64), r"a \(6, 3\) array of int64"),
        (np.zeros((5, 3)), r"a \(5, 3\) array of float64"),
        (torch.zeros(6, 3, 2), r"a \(6, 3, 2\) tensor of torch.float32"),
        ([[0.0] * 3] * 6, "a list"),
        (None, "a NoneType"),
    ],
)
def test_refuses_what_is_no_features(pixels, made, what, unchecked):
    class Wrong(InNumpy):
        def __call__(self, pixels):
            return made

    for extract in (Wrong(), lambda pixels: made):
        with pytest.raises(ValueError, match=f"made {what} from 6 images; an extractor returns floats of shape .6, f"):
            outputs(extractor(extract), pixels)
