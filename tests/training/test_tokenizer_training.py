"""One stage for both kinds of tokenizers: what tells them apart, and what is refused."""

from dataclasses import replace

import pytest
from tests.training.continuous import Patches
from tests.training.tiny import AUTOENCODER, MAIN, tokenizer

from robustok.tokenizer.latent_perturbation import LatentNoise
from robustok.tokenizer.perturbation import Perturbation
from robustok.training.tokenizer_training import TokenizerStage


def test_the_perturbation_says_which_kind_is_trained():
    assert MAIN.has_codebook
    assert not AUTOENCODER.has_codebook


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (MAIN, {"perturbation": LatentNoise()}, "has a codebook and is not perturbed by LatentNoise; .* Perturbation"),
        (
            AUTOENCODER,
            {"perturbation": Perturbation()},
            "has no codebook and .* set perturbation to LatentNoise, .* or Added",
        ),
        (MAIN, {"mask_ratio_max": 0.5}, "mask_ratio_max is of tokenizers without a codebook"),
        (MAIN, {"statistics_images": 64}, "statistics_images is of tokenizers without a codebook"),
        (MAIN, {"semantic_size": 0}, "semantic_size is 0; it must be at least 1"),
        (AUTOENCODER, {"semantic": 0.2}, "semantic is of tokenizers with a codebook"),
        (AUTOENCODER, {"codebook": 0.5}, "codebook is of tokenizers with a codebook"),
    ],
)
def test_settings_of_the_other_kind_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_what_switches_a_term_off_that_is_not_there_is_no_mistake():
    assert replace(AUTOENCODER, semantic=0.0).semantic == 0


def test_a_given_tokenizer_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="a Patches has no codebook and is not perturbed by Perturbation"):
        TokenizerStage(replace(MAIN, tokenizer=None), tokenizer=Patches())
    with pytest.raises(ValueError, match="a Tokenizer has a codebook and is not perturbed by LatentNoise"):
        TokenizerStage(replace(AUTOENCODER, tokenizer=None), tokenizer=tokenizer())
