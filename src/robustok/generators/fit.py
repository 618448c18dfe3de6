"""Does a generator fit: its sampling, its tokenizer, to any other its tokens or latents mean nothing, its classes."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from robustok.generators.protocol import Made
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


def check_fit(generator: Any, other: Any, sampling: Any = None) -> None:
    """Raises ValueError unless a generator fits a tokenizer or a cache of one, and `sampling` the generator.

    That is one of another kind, with tokens of another number or codebook size or latents of another shape, and one
    other than the generator was trained on: `generator.trained_on` tells by a fingerprint; where that is None or
    missing, as in models that others published, nothing is known and nothing refused. Post-training changes the
    decoder alone, so the fingerprint outlives it.
    """
    if sampling is not None:
        check_sampling(generator, sampling)
    known, here = getattr(generator, "trained_on", None), fingerprints(other)
    if known is not None and here and known not in here:
        raise ValueError(
            f"the generator was trained on tokenizer {known}, not on {here[0]}; give that tokenizer, whose decoder may "
            "have been post-trained since, or train a generator on this one (to go on with this generator, set its "
            "trained_on to None first)"
        )
    (made, own), (kind, size) = _form(generator), _form(other)
    if made != kind or (own and size and own != size):
        sizes = {"tokens": "codebook_size and tokens", "latents": "tokens and channels"}
        noun, has = ("cache", "holds") if hasattr(other, "views") else ("tokenizer", "makes")
        raise ValueError(
            f"the generator makes {own or made}, the {noun} {has} {size or kind}; give the {noun} that the generator "
            f"was trained on, or a new generator with {sizes[kind]} of this one"
        )


def check_sampling(generator: Any, sampling: Any) -> None:
    """Raises ValueError for settings of another kind of generator."""
    if not hasattr(sampling, "asks"):
        raise ValueError(f"sampling is {sampling!r}; give a Sampling, a MaskedSampling or a FlowSampling")
    if not hasattr(generator, sampling.asks):
        raise ValueError(
            f"a {type(generator).__name__} is not sampled as a {type(sampling).__name__} says; generators of tokens "
            "take Sampling, masked ones MaskedSampling, those of latents FlowSampling"
        )


def _form(model: Any) -> tuple[Made, str]:
    """What an image is to a generator, a tokenizer or a cache, in words how much of it; "" where that is unknown."""
    codebook, tokens = getattr(model, "codebook", None), getattr(model, "tokens_per_image", None)
    codes = getattr(model, "codebook_size", None) if codebook is None else len(codebook)
    if codes is not None:
        return "tokens", "" if tokens is None else f"{tokens} tokens of {codes} codes"
    shape = getattr(model, "latent_shape", None)
    return "latents", "" if shape is None else f"latents of shape {tuple(shape)}"


def whole_labels(labels: Labels) -> Labels:
    """Labels in 64 bits. Raises ValueError for a mask and for fractions, which would become classes."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels are {tuple(labels.shape)} of {labels.dtype}; give the numbers of classes in a row, such as "
            "torch.tensor([0, 1])"
        )
    return labels.long()


def check_labels(generator: Any, labels: Labels, *, null_class: bool = False) -> None:
    """Raises ValueError for labels that are none of the generator's classes; `null_class` says that its own is one."""
    classes = generator.null_class
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes + null_class:
        extra = f", and {classes} is for no label" if null_class else ""
        raise ValueError(
            f"the generator knows {classes} classes: labels go from 0 to {classes - 1}{extra}; not "
            f"{_few(labels[(labels < 0) | (labels >= classes + null_class)].unique().tolist())}"
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
    if classes > generator.null_class:
        raise ValueError(
            f"the generator knows {generator.null_class} classes, the images have {classes}; give images of its "
            "classes, or a generator made for as many (classes)"
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
