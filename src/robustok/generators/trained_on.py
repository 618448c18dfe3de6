"""Which tokenizer a generator was trained on: to any other its tokens or latents mean nothing."""

from typing import Any


def fingerprints(tokenizer: Any) -> tuple[str, ...]:
    """By which a tokenizer, or that of a cache, is known: its own first, then those of earlier versions of robustok.

    Empty where nothing is known of it.
    """
    own = getattr(tokenizer, "fingerprint", None)
    earlier: tuple[str, ...] = getattr(tokenizer, "earlier_fingerprints", ())
    if own is None:
        return ()
    return (own(), *(earlier() if callable(earlier) else earlier)) if callable(own) else (own, *earlier)


def check_trained_on(generator: Any, tokenizer: Any) -> None:
    """Raises ValueError for a generator that was trained on another tokenizer than this, or than that of this cache.

    `generator.trained_on` tells by a fingerprint; where that is None or missing, as in models that others published,
    nothing is known and nothing refused. Post-training changes the decoder alone, so the fingerprint outlives it.
    """
    known, here = getattr(generator, "trained_on", None), fingerprints(tokenizer)
    if known is None or not here:
        return
    if known not in here:
        raise ValueError(
            f"the generator was trained on tokenizer {known}, not on {here[0]}; give that tokenizer, whose decoder may "
            "have been post-trained since, or train a generator on this one (to go on with this generator, set its "
            "trained_on to None first)"
        )
