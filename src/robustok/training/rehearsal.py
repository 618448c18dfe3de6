"""Rehearsed perturbation: the decoder learns on what a short pilot generator makes of images' tokens.

Those are post-training's pairs (arXiv 2509.12474, sec. 4.3) before there is a generator: replaced tokens fit those
around them as a generator's do, which codes drawn among a token's neighbors do not.
"""

from dataclasses import dataclass

import torch

from robustok.data.images import ImageSet
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import Kept, Sampling, finish_tokens
from robustok.runtime.configs import check_shares
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, TokenMask, Tokens
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.protocol import TokenizerLike, books_of, codebook_of
from robustok.training.pilot import Pilot, encoded_tokens, new_pilot, train_pilot

CLASSES = 1  # that a pilot has at least; it learns and draws of none


@dataclass(frozen=True, kw_only=True)
class Rehearsed(Pilot):
    """Perturbation in two phases, in whose second one a pilot generator draws a share of each image's tokens anew.

    It learns tokens without classes, once encoder and codebook are frozen, and draws one after the other, given all
    that is there by then.
    """

    sigma: float = 0.7  # share of a chosen image's tokens that stay real, 0 to 1

    def __post_init__(self) -> None:
        check_shares(self, "sigma")
        super().__post_init__()

    def as_perturbation(self, *measured: float) -> Perturbation:
        """Which tokens are drawn anew; by which codes, the pilot says."""
        return super().as_perturbation(alpha=1 - self.sigma)


def pilot_of(config: Rehearsed, tokenizer: TokenizerLike, images: ImageSet | None, *, seed: int) -> AutoregressiveModel:
    """A pilot trained on some of the images. Raises ValueError for no images."""
    if images is None:
        raise ValueError(
            "a rehearsed perturbation trains a pilot generator on some images; give them to set_reference first"
        )
    rows = torch.randperm(len(images), generator=stream(seed, "pilot images"))[: config.train_images]
    tokens = encoded_tokens(tokenizer, images, rows)
    nothing = torch.full_like(tokens[:, 0], CLASSES)  # the null class of a pilot of so many
    return train_pilot(config, tokens, nothing, len(_codebook(tokenizer)), CLASSES, seed=seed)


def empty_pilot(config: Rehearsed, tokenizer: TokenizerLike) -> AutoregressiveModel:
    """A pilot before its training."""
    codebook = _codebook(tokenizer)
    return new_pilot(config, tokenizer.tokens_per_image, len(codebook), CLASSES).to(codebook.device)


def _codebook(tokenizer: TokenizerLike) -> Codebook:
    codebook = codebook_of(tokenizer)
    assert codebook is not None, "only tokens are rehearsed"
    return codebook


@torch.no_grad()
def rehearse(
    pilot: GeneratorLike, tokenizer: TokenizerLike, tokens: Tokens, chosen: TokenMask, uniform: torch.Tensor
) -> Tokens:
    """Tokens (b n), the chosen ones drawn anew by the pilot, each by its uniform number in [0, 1).

    Of several codebooks, one below the other, a code of another one than the token's does not take its place.
    """
    nothing = torch.full_like(tokens[:, 0], pilot.null_class)
    drawn = finish_tokens(pilot, nothing, Sampling(), uniform, Kept(~chosen, tokens))
    books = books_of(tokenizer)
    size = pilot.codebook_size // books
    return torch.where(chosen & (drawn // size == tokens // size), drawn, tokens) if books > 1 else drawn
