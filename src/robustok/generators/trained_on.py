"""What a generator was trained on: a tokenizer, to any other its tokens or latents mean nothing, and classes."""

import warnings
from collections.abc import Sequence
from typing import Any

from robustok.shapes import Labels

NAMED = 5  # classes that are named where their names differ


class ClassesWarning(UserWarning):
    """Labels may not mean to a generator what they mean in the images."""


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

    Tokens of another number, or of a codebook of another size, and latents of another shape are refused in any case.

    `generator.trained_on` tells by a fingerprint; where that is None or missing, as in models that others published,
    nothing is known and nothing refused. Post-training changes the decoder alone, so the fingerprint outlives it.
    """
    known, here = getattr(generator, "trained_on", None), fingerprints(tokenizer)
    if known is not None and here and known not in here:
        raise ValueError(
            f"the generator was trained on tokenizer {known}, not on {here[0]}; give that tokenizer, whose decoder may "
            "have been post-trained since, or train a generator on this one (to go on with this generator, set its "
            "trained_on to None first)"
        )
    makes, takes = _form(generator), _form(tokenizer)
    if makes and takes and makes != takes:
        raise ValueError(
            f"the generator makes {makes}, the tokenizer {takes}; give the tokenizer that the generator was trained on"
        )


def _form(model: Any) -> str:
    """In words, what an image is to a generator, a tokenizer or a cache; "" where it is not known."""
    codebook, tokens = getattr(model, "codebook", None), getattr(model, "tokens_per_image", None)
    codes = getattr(model, "codebook_size", None) if codebook is None else len(codebook)
    if codes is not None and tokens is not None:
        return f"{tokens} tokens of {codes} codes"
    shape = getattr(model, "latent_shape", None)
    return f"latents of shape {tuple(shape)}" if shape is not None else ""


def check_labels(generator: Any, labels: Labels, *, no_label: bool = False) -> None:
    """Raises ValueError for labels that are none of the generator's classes; `no_label` says that its own is one."""
    classes = generator.no_label
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes + no_label:
        extra = f", and {classes} is for no label" if no_label else ""
        raise ValueError(
            f"the generator knows {classes} classes: labels go from 0 to {classes - 1}{extra}; not "
            f"{_few(labels[(labels < 0) | (labels >= classes + no_label)].unique().tolist())}"
        )


def check_classes(generator: Any, labels: Labels, names: Sequence[str] | None) -> None:
    """Raises ValueError for images of more classes than the generator knows, or of none; warns of other names.

    `labels` are those of the images, `names` what the classes are called. Where either side has no names, or numbers
    for names, nothing is known and nothing told. Of `generator.class_names` the first are those of the first labels.
    """
    if len(labels) and labels.min() < 0:
        raise ValueError(
            f"the images have no labels ({int(labels.min())}), the generator needs them; tell their classes"
        )
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes > generator.no_label:
        raise ValueError(
            f"the generator knows {generator.no_label} classes, the images have {classes}; give images of its classes, "
            "or train a generator on these"
        )
    known = getattr(generator, "class_names", None)
    if not known or not names or all(name.isdecimal() for name in known) or all(name.isdecimal() for name in names):
        return
    others = [
        f"{i} is {theirs!r} to the generator and {ours!r} in the images"
        for i, (theirs, ours) in enumerate(zip(known, names, strict=False))
        if theirs != ours
    ]
    if others:
        warnings.warn(
            f"the generator was trained on classes of other names ({_few(others)}), so it may take images for what "
            "they are not; give images of its classes, in folders of the same names",
            ClassesWarning,
            stacklevel=3,
        )


def _few(values: Sequence[Any]) -> str:
    more = [f"and {len(values) - NAMED} more"] if len(values) > NAMED else []
    return ", ".join([*map(str, values[:NAMED]), *more])
