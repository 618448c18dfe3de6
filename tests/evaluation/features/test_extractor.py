import numpy as np
import pytest
import torch
from tests.evaluation.scored import Noise

from robustok.backbones.lite import Lite
from robustok.evaluation.features.extractor import (
    CustomExtractor,
    Extractor,
    NetworkExtractor,
    Outputs,
    from_numpy,
    outputs,
    resize_images,
)
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.difference import unlike
from robustok.evaluation.scores.image_scores import score_image_set, score_images
from robustok.evaluation.scores.reference import Reference
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
    assert resize_images(images, 16) is images
    assert resize_images(images, 8).shape == (1, 3, 8, 8)


def test_shrinking_looks_at_every_pixel():
    checkers = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(1, 3, -1, -1)
    torch.testing.assert_close(resize_images(checkers, 8)[..., 2:-2, 2:-2], torch.full((1, 3, 4, 4), 0.5))


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
        (torch.zeros(6, 0), r"a \(6, 0\) tensor of torch.float32"),
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


# Other formats, and compiled


def test_features_in_half_precision_are_those_in_full_to_rounding(pixels):
    half, whole = extractor("lite0@32", dtype="bfloat16"), lite0(32)
    features, wanted = half(pixels), whole(pixels)
    assert features.dtype == torch.float32
    gap = float((features - wanted).norm() / wanted.norm())
    assert 0 < gap < 30 * 2.0**-8, "some tens of layers, each of which rounds"
    assert half.describe() == whole.describe() | {"dtype": "bfloat16"}
    assert extractor("lite0@32").describe() == whole.describe(), "full precision goes without saying"
    assert torch.equal(lite0(32)(pixels), wanted), "nor do extractors share what was converted"


class Means(torch.nn.Module):
    """A network of one matrix."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.linspace(-1, 1, 12).view(3, 4))

    def forward(self, pixels: torch.Tensor) -> Outputs:
        return Outputs(pixels.to(self.matrix.dtype).mean(dim=(2, 3)) @ self.matrix)


def means() -> NetworkExtractor:
    return NetworkExtractor(Means(), {"features": "means"})


def test_a_compiled_extractor_gives_the_same_and_says_so(pixels):
    fast = means().faster(compile="eager")  # translates as inductor does, and runs without a C++ compiler
    torch.testing.assert_close(fast(pixels), means()(pixels))
    assert fast.describe() == {"features": "means", "compiled": "eager"}
    with pytest.raises(ValueError, match="means could not be compiled by nonsense .* score without compiling"):
        means().faster(compile="nonsense")(pixels)


def test_scores_of_other_formats_are_not_compared():
    images, others = Noise(12), Noise(12, seed=1)
    narrow = means().faster("float16")
    spaces = {"plain": means(), "half": means().faster("bfloat16"), "fast": means().faster(compile="eager")}
    references = {name: Reference.of(images, space) for name, space in spaces.items()}
    with pytest.raises(ValueError, match="with dtype 'float32', the images to score with 'bfloat16'; compute both"):
        score_images(others, references["plain"], spaces["half"])
    with pytest.raises(ValueError, match="with compiled 'eager', the images to score with 'no'"):
        score_images(others, references["fast"], spaces["plain"])
    plain, half = (score_images(others, references[name], spaces[name]) for name in ("plain", "half"))
    assert plain.value != half.value
    assert plain.value == pytest.approx(score_images(others, Reference.of(images, narrow), narrow).value, rel=1e-2)
    assert [str(found) for found in unlike(plain, half)] == ["dtype None once and 'bfloat16' the other time"]


def test_formats_are_of_networks_by_name(pixels):
    with pytest.raises(ValueError, match="no format 'int8' for features; choose float32, bfloat16, float16"):
        extractor("lite0", dtype="int8")
    for custom in (InNumpy(), lambda pixels: pixels.float().mean(dim=(2, 3)), lite0(32)):
        with pytest.raises(ValueError, match="computes as it is made; dtype and compile are for spaces by name"):
            extractor(custom, dtype="bfloat16")
        with pytest.raises(ValueError, match="computes as it is made"):
            extractor(custom, compile="inductor")


# Functions of arrays


def blocks_of(images: np.ndarray) -> np.ndarray:
    """Mean colors of the quarters of images (n h w 3)."""
    n, h, w, _ = images.shape
    return images.reshape(n, 2, h // 2, 2, w // 2, 3).mean(axis=(2, 4)).reshape(n, 12)


def test_a_function_of_arrays_is_an_extractor(pixels):
    seen = []

    def watched(images):
        seen.append((images.dtype.name, images.shape, images.flags.writeable))
        return blocks_of(images)

    extract = from_numpy(watched)
    wanted = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(extract(pixels), wanted)
    assert seen == [("uint8", (6, 40, 40, 3), True)]
    assert extract.describe() == {"features": "watched"}
    floats = from_numpy(blocks_of, "colors", floats=True)
    torch.testing.assert_close(floats(pixels), wanted / 255)
    assert floats.name == "colors"


def test_scores_in_a_space_of_arrays_are_those_of_the_same_function_of_tensors():
    def colors(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).permute(0, 2, 3, 1).flatten(1)

    scores = []
    for space in (from_numpy(blocks_of, "colors"), CustomExtractor(colors)):
        scores.append(
            {s.metric: s.value for s in score_image_set(Noise(60, seed=1), Reference.of(Noise(80), space), space)}
        )
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda images: images.mean(axis=(1, 2, 3)),
            r"made a \(6,\) array of float64 .* floats of shape \(6, features\)",
        ),
        (lambda images: images[:3].mean(axis=(1, 2)), r"made a \(3, 3\) array"),
        (lambda images: images.max(axis=(1, 2)), r"made a \(6, 3\) array of uint8"),
        (lambda images: images.mean(axis=(1, 2)).tolist(), "made a list"),
        (
            lambda images: images.mean(axis=(1, 2)) * np.array([[np.nan]] * 2 + [[1]] * 4),
            "NaN or infinity from 2 of 6 im",
        ),
        (lambda images: images.mean(axis=(1, 2)) * 1e60, "NaN or infinity from 6 of 6 images"),
    ],
)
def test_what_a_function_of_arrays_may_not_return(pixels, function, message, unchecked):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        from_numpy(function)(pixels)


def test_a_function_of_arrays_is_a_function(unchecked):
    with pytest.raises(ValueError, match="'lite0' is no function; give one from images"):
        from_numpy("lite0")
