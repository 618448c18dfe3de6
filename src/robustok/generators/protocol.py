"""What robustok asks of a generator, whoever made it, and whether that makes tokens or latents: decided here alone."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.shapes import Labels, Latents, Tokens

Made: TypeAlias = Literal["tokens", "latents"]
Logits: TypeAlias = Float[Tensor, "b n k"]
Predictor: TypeAlias = Callable[
    [Tokens | None], Logits
]  # the tokens since it was last asked -> logits of the next block


@runtime_checkable
class GeneratorLike(Protocol):
    """What can be sampled: a generator of tokens, which has a `predictor` or `predict_masked`, or of latents, which has
    a `velocity`.

    One of tokens predicts an image's tokens in `blocks`, all tokens of a block at once: each block is one token for an
    autoregressive model, one scale for VAR. Its predictor is given the tokens of each image that it was not given
    before, which are whole blocks (None where there are none, at the start), and returns the logits of the next block.
    A masked one has `predict_masked` instead of both: logits of all tokens, given those that are not `codebook_size`,
    which stands for the mask.
    """

    @property
    def null_class(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def fingerprint(self) -> str: ...

    # Of tokens:
    @property
    def codebook_size(self) -> int: ...
    @property
    def tokens_per_image(self) -> int: ...
    @property
    def blocks(self) -> Sequence[int]: ...  # tokens of each prediction; together tokens_per_image
    def predictor(self, labels: Labels) -> Predictor: ...
    def predict_masked(self, tokens: Tokens, labels: Labels) -> Logits: ...

    # Of latents:
    @property
    def latent_shape(self) -> tuple[int, int]: ...  # (n, d)
    def velocity(self, latents: Latents, t: Float[Tensor, " b"], labels: Labels) -> Latents: ...

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return any(hasattr(other, name) for name in ("predictor", "predict_masked", "velocity"))


def makes(generator: object) -> Made:
    """The kind of what a generator makes."""
    return "tokens" if hasattr(generator, "predictor") or is_masked(generator) else "latents"


def is_masked(generator: object) -> bool:
    """True for a generator that fills in masked tokens, in any order."""
    return hasattr(generator, "predict_masked")


def lacking(generator: object) -> list[str]:
    """What a model has not that a generator of its kind has; nothing for a generator."""
    of_tokens = ["codebook_size", "tokens_per_image"]
    of_tokens += ["predict_masked"] if is_masked(generator) else ["blocks", "predictor"]
    own = of_tokens if makes(generator) == "tokens" else ["latent_shape", "velocity"]
    return [name for name in ("null_class", "device", "fingerprint", *own) if not hasattr(generator, name)]
