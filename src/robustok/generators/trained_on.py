"""Which tokenizer a generator was trained on: to any other its tokens or latents mean nothing."""

from typing import Any


def check_trained_on(generator: Any, tokenizer: Any) -> None:
    """Raises ValueError for a generator that was trained on another tokenizer than this, or than that of this cache.

    `generator.trained_on` tells by a fingerprint; where that is None or missing, as in models that others published,
    nothing is known and nothing refused. Post-training changes the decoder alone, so the fingerprint outlives it.
    """
    known, here = getattr(generator, "trained_on", None), getattr(tokenizer, "fingerprint", None)
    if known is None or here is None:
        return
    given = here() if callable(here) else here
    if known != given:
        raise ValueError(
            f"the generator was trained on tokenizer {known}, not on {given}; give that tokenizer, whose decoder may "
            "have been post-trained since, or train a generator on this one (to go on with this generator, set its "
            "trained_on to None first)"
        )
