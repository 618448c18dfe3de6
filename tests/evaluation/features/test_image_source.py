import pytest
import torch
from tests.evaluation.scored import Blocks, Noise, shades

from robustok.evaluation.scores.image_scores import score_image_set
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer


class Wrong(Noise):
    """Images as somebody else scales them."""

    def __init__(self, scale):
        super().__init__(40)
        self.scale = scale

    def images(self, indices):
        return self.scale(self.pixels[indices].float())


@pytest.mark.parametrize(
    ("scale", "match"),
    [
        (lambda pixels: pixels / 255, r"images run from 0\S* to \S+, as if 0 were black; .* 2 \* images - 1"),
        (lambda pixels: pixels, r"images run from \d+ to 2\d+, as if 0 were black"),
        (lambda pixels: pixels - 127, r"images run from -\d+ to \d+; scale them to \[-1, 1\]: pixels / 127.5 - 1"),
        (lambda pixels: pixels / 127.5 - 1 + torch.nan, "the images hold NaN; look for broken files"),
    ],
)
def test_refuses_images_in_another_range(scale, match):
    for score in (lambda x: Reference.of(x, shades), lambda x: score_tokenizer(Blocks(), x, shades)):
        with pytest.raises(ValueError, match=match):
            score(Wrong(scale))


@pytest.mark.parametrize("scale", [torch.Tensor.double, torch.Tensor.numpy, torch.Tensor.half])
def test_floats_of_any_kind_are_scored_alike(scale):
    scores = [
        score_tokenizer(Blocks(), Wrong(lambda x, last=last: last(x / 127.5 - 1)), shades)
        for last in (scale, torch.clone)
    ]
    exact = scale is not torch.Tensor.half
    for found, wanted in zip(*scores, strict=True):
        assert found.value == pytest.approx(wanted.value, rel=1e-9 if exact else 0.05)


@pytest.mark.parametrize("scale", [lambda x: x[:, :1], lambda x: x.movedim(1, 3), lambda x: x[1:], lambda x: x[0]])
def test_refuses_images_of_another_shape(scale):
    for score in (lambda x: Reference.of(x, shades), lambda x: score_tokenizer(Blocks(), x, shades)):
        with pytest.raises(
            ValueError, match=r"images of .* came as \(.*\); wanted (\(images, 3, height, w|one for each i)"
        ):
            score(Wrong(lambda pixels: scale(pixels / 127.5 - 1)))


@pytest.mark.parametrize(
    ("given", "what"),
    [(torch.zeros(4, 3, 8, 8), "a Tensor"), ([1, 2], "a list"), ("photos", "'photos'"), (None, "None")],
)
def test_refuses_what_is_no_set_of_images(given, what, unchecked):
    for score in (Reference.of, lambda images: score_image_set(images, [])):
        with pytest.raises(ValueError, match=f"{what} is no set of images; open one"):
            score(given)


@pytest.mark.parametrize("cut", [False, True])
def test_a_set_that_gives_fewer_images_than_its_length_says_is_told(cut):
    class Longer(Noise):
        def __len__(self):
            return len(self.pixels) + 13

        def images(self, indices):
            return super().images(indices[indices < len(self.pixels)] if cut else indices)

    said = "came as .*; wanted one for each index, of which its length says that there are 53"
    for score in (lambda x: Reference.of(x, shades), lambda x: score_tokenizer(Blocks(), x, shades)):
        with pytest.raises(
            ValueError, match=said if cut else r"noise has 53 images by its length, but images 0 to 5\d"
        ):
            score(Longer(40))
