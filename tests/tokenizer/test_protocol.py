"""What is asked of a tokenizer: that it tells tokens from latents, and says what it lacks before it is trained."""

import pytest
import torch
from torch import nn

from robustok.tokenizer.protocol import TokenizerLike, as_module, codebook_of


class Bare(nn.Module):
    """As much of a tokenizer as is scored."""

    image_size, tokens_per_image, device = 4, 16, torch.device("cpu")

    def encode(self, images):
        return images.flatten(2).mT

    def decode(self, codes):
        return codes.mT.unflatten(2, (4, 4))


class Coded(Bare):
    """The same with codes, of the shape of a tokenizer that can be trained but for three methods."""

    codebook = torch.zeros(5, 3)
    decoder, last_layer = nn.Identity(), torch.zeros(1)

    def fingerprint(self):
        return "coded"

    def save_pretrained(self, folder, **about):
        raise AssertionError


def test_what_encodes_and_decodes_is_like_a_tokenizer_and_a_codebook_may_be_missing():
    assert isinstance(Bare(), TokenizerLike)
    assert not isinstance(nn.Linear(1, 1), TokenizerLike)
    assert codebook_of(Bare()) is None
    assert codebook_of(Coded()) is Coded.codebook


@pytest.mark.parametrize(
    ("model", "lacks"),
    [
        (Bare(), "no decoder, no last_layer, no fingerprint, no save_pretrained; add"),
        (Coded(), "no quantize, no lookup"),
    ],
)
def test_what_a_tokenizer_lacks_is_said_before_it_is_trained(model, lacks):
    with pytest.raises(ValueError, match=f"cannot be trained: it has {lacks}"):
        as_module(model)
