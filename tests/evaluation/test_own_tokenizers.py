"""Tokenizers that users write: what they make is asked for in words, and whole numbers of any kind are tokens."""

import pytest
import torch
from tests.evaluation.scored import Blocks, Noise, Quantized, shades
from torch import nn

from robustok.evaluation.scores.tokenizer_scores import score_tokenizer


def same(value):
    return value


class Own:
    """A tokenizer that is no module, each part of which somebody changed."""

    device = torch.device("cpu")

    def __init__(self, encode=same, tokens=same, quantized=Quantized, codebook=same, lookup=same, decode=same):
        self.changed, self.blocks = (encode, tokens, quantized, lookup, decode), Blocks()
        self.codebook = codebook(self.blocks.codebook)

    def encode(self, images):
        return self.changed[0](self.blocks.encode(images))

    def quantize(self, latents):
        _, tokens, quantized, *_ = self.changed
        return quantized(tokens(self.blocks.quantize(latents).tokens))

    def lookup(self, tokens):
        return self.changed[3](self.blocks.lookup(tokens))

    def decode(self, codes):
        return self.changed[4](self.blocks.decode(codes))


IMAGES = Noise(40)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"tokens": lambda t: t.view(-1, 2, 2)},
            r"a tensor \(40, 2, 2\) of int64 of 40 images; wanted a tensor of whole",
        ),
        (
            {"tokens": lambda t: t.flatten()},
            r"tokens that are a tensor \(160,\) of int64 of 40 .* shape \(40, tokens\)",
        ),
        ({"tokens": lambda t: t[1:]}, r"tokens that are a tensor \(39, 4\) of int64"),
        ({"tokens": lambda t: t.float()}, r"tokens that are a tensor \(40, 4\) of float32"),
        ({"tokens": lambda t: t > 9}, r"tokens that are a tensor \(40, 4\) of bool"),
        ({"tokens": lambda t: t.numpy()}, r"tokens that are an array of numpy \(40, 4\) of int64"),
        ({"tokens": lambda t: t.tolist()}, "tokens that are a list of 40 images"),
        ({"tokens": lambda t: t + 1000}, "makes tokens from 1020 to 12.*; of 256 codes they go from 0 to 255"),
        ({"tokens": lambda t: t - 1000}, "makes tokens from -9"),
        (
            {"tokens": lambda t: None},
            "quantize returns a Quantized without tokens; wanted what has them as an attribute",
        ),
        ({"quantized": lambda t: (t,)}, "quantize returns a tuple without tokens"),
        ({"codebook": lambda c: c.numpy()}, r"is an array of numpy \(256, 1\) of float32; .*: give torch.from_numpy"),
        ({"codebook": lambda c: c[None]}, r"is a tensor \(1, 256, 1\) .*; wanted a float tensor of shape \(codes, dim"),
        ({"codebook": lambda c: nn.Embedding(256, 1)}, "is a Embedding; wanted a float tensor .*: give its weight"),
        ({"codebook": lambda c: c.tolist()}, "the codebook is a list; wanted a float tensor"),
        (
            {"lookup": lambda c: c.numpy()},
            r"the lookup of a Own makes an array of numpy \(40, 4, 1\) .* \(40, tokens, dim",
        ),
        ({"lookup": lambda c: c[None]}, r"the lookup of a Own makes a tensor \(1, 40, 4, 1\)"),
        (
            {"encode": lambda x: x[1:]},
            r"encodes 40 images to a tensor \(39, 4, 1\) of float32; wanted latents of shape",
        ),
        (
            {"encode": lambda x: x[:, None], "codebook": lambda c: None},
            r"encodes 40 images to a tensor \(40, 1, 4, 1\)",
        ),
    ],
)
def test_what_a_tokenizer_makes_is_asked_for_in_words(changed, said, unchecked):
    with pytest.raises(ValueError, match=said):
        score_tokenizer(Own(**changed), IMAGES, shades)


def values(tokenizer):
    return [score.value for score in score_tokenizer(tokenizer, IMAGES, shades)]


def test_tokens_may_be_whole_numbers_of_any_kind():
    wanted = values(Own())
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert values(Own(tokens=lambda t, kind=kind: t.to(kind))) == wanted


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_codes_of_other_precision_are_decoded_in_float32(kind):
    seen = set()

    def decode(images):
        seen.add(images.dtype)
        return images

    values(Own(codebook=lambda c: c.to(kind), lookup=lambda c: c.to(kind), decode=decode))
    assert seen == {torch.float32}


def test_a_module_with_codes_in_double_precision_decodes_in_that_of_its_weights():
    class Doubled(Blocks):
        def __init__(self, kind):
            super().__init__()
            self.codebook, self.mix = self.codebook.double(), nn.Conv2d(3, 3, 1, dtype=kind)

        def decode(self, codes):
            return self.mix(super().decode(codes))

    for kind in (torch.float32, torch.float64):
        assert values(Doubled(kind))
