"""What a tokenizer decodes becomes pixels only where it is images in [-1, 1]."""

import warnings

import pytest
import torch
from tests.evaluation.scored import Grays, Noise, shades

from robustok.evaluation.decoding import decoded
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.shapes import to_pixels


class Scaled(Grays):
    """A decoder whose images somebody scales in another way."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def decode(self, codes):
        return self.scale(super().decode(codes))


LATENTS = torch.linspace(-1.1, 1.1, 100).view(25, 4, 1)  # decoders go a little beyond


@pytest.mark.parametrize(
    ("scale", "match"),
    [
        (lambda x: (x + 1) * 127.5, r"makes images from -\S+ to 268; scale what it decodes to \[-1, 1\]: pixels / 127"),
        (to_pixels, r"makes \(25, 3, 12, 12\) of torch.uint8 of 25 images; wanted floats in \[-1, 1\]"),
        (
            lambda x: x[:, :1],
            r"makes \(25, 1, 12, 12\) .* wanted floats in \[-1, 1\] of shape \(25, 3, height, width\)",
        ),
        (lambda x: x.movedim(1, 3), r"makes \(25, 12, 12, 3\)"),
        (lambda x: x[1:], r"makes \(24, 3, 12, 12\)"),
        (lambda x: x.numpy(), "makes ndarray of 25 images"),
        (lambda x: x * torch.nan, "makes NaN or infinity of 25 of 25 images"),
    ],
)
def test_refuses_what_are_no_images(scale, match):
    with pytest.raises(ValueError, match=match):
        list(decoded(Scaled(scale), LATENTS))


def test_tells_where_black_may_be_0_to_a_decoder():
    scores, images = [], Noise(40)
    for scale in (lambda x: x, lambda x: (x + 1) / 2, lambda x: (3 * x).sigmoid(), lambda x: x / 4, torch.sigmoid):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            scores.append(score_tokenizer(Scaled(scale), images, shades))
        assert any("as if 0 were black to the decoder" in str(one.message) for one in told) == (len(scores) in (2, 3))
    assert scores[0][0].value < scores[1][0].value


def test_bright_and_loud_images_are_taken_as_they_are():
    for latents in (LATENTS.abs(), LATENTS * 50):
        (pixels,) = decoded(Grays(), latents)
        assert torch.equal(pixels, to_pixels(Grays().decode(latents)))
