"""From what is told of images to classes and labels: one set of rules, whatever the images come from."""

import math
import posixpath
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from unicodedata import normalize

import torch
from torch import Tensor

from robustok.runtime.words import some

Classes: TypeAlias = tuple[tuple[str, ...], Tensor]  # names, and labels (count,) int64 that are indices into them

NUMBER = re.compile(r"\d{1,99}", re.ASCII)
WHOLE = re.compile(r"(-?\d{1,99})(\.0*)?", re.ASCII)  # "3.0" is how tables write 3 where some rows are empty
DECIMAL = re.compile(r"-?\d*\.?\d+(\.0*|[eE][-+]?\d+)?|-?inf", re.ASCII)
SYNSET = re.compile(r"(n\d{8})_")  # that the names of ImageNet's training images begin with
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def unlabeled(count: int, name: str = "images") -> Classes:
    """One class for all images, where none is known."""
    return (name,), torch.zeros(count, dtype=torch.int64)


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order of classes: whole numbers by their value, else as text."""
    names = list(names)
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names, key=lambda name: (one_spelling(name), name))


def by_name(names: Sequence[str], more: Iterable[str] = ()) -> Classes:
    """Each name a class, as are `more`, in their order; numbers are names too, so none between them is missing."""
    names = list(map(one_spelling, names))
    classes = ordered({*names, *map(one_spelling, more)})
    number = {name: label for label, name in enumerate(classes)}
    return tuple(classes), torch.tensor([number[name] for name in names], dtype=torch.int64)


def synset_of(name: str) -> str | None:
    """The synset that the name of one of ImageNet's training images begins with, n01440764_18.JPEG."""
    found = SYNSET.match(name.rpartition("/")[2])
    return found[1] if found else None


def by_folder(
    names: Sequence[str], empty: Sequence[str], place: str, *, archive: bool, complete: bool = True
) -> Classes:
    """The classes of images by their paths: the folders that they lie in, else their synsets, else one.

    `empty` are folders without images. What the paths in an `archive` have in common lies above the classes, and a
    single folder is a class by its name. Raises ValueError for images beside class folders, splits instead of classes,
    and where all must be `complete`, for a class without images.
    """
    parents = [one_spelling(name).rpartition("/")[0] for name in names]
    empty = list(map(one_spelling, empty))
    above = posixpath.commonpath([*parents, *empty]) if archive else ""
    below = len(above) + bool(above)
    kinds = [parent[below:].partition("/")[0] for parent in parents]
    filled = set(kinds) - {""}
    if not filled:
        synsets, only = list(map(synset_of, names)), above.rpartition("/")[2]
        found = [synset for synset in synsets if synset]
        named = only if only and only.lower() not in SPLITS else "images"
        return by_name(found) if len(found) == len(names) else unlabeled(len(names), named)
    if "" in kinds:
        remedy = "put all into class folders or all into one folder, or choose labels 'folder' or 'none'"
        raise ValueError(
            f"{place} has {kinds.count('')} images beside the class folders {some(ordered(filled))}; "
            + (remedy if archive else "move them into a class folder, or all images into one folder")
        )
    bare = {folder[below:] for folder in empty if "/" not in folder[below:]}
    if {name.lower() for name in filled | bare} <= SPLITS:
        splits = ordered(filled if archive else filled | bare)
        remedy = "make an archive of one of them, or choose labels 'folder' or 'none'"
        raise ValueError(
            f"{place} holds the splits {some(splits)}, not classes; "
            + (remedy if archive else f"give one of them: {Path(place) / splits[0]}")
        )
    classes, labels = by_name(kinds, bare)
    if complete:
        check_none_lost(torch.arange(len(classes)), labels, classes, place)
    return classes, labels


def classes_of(told: Sequence[Any], what: str) -> Classes:
    """Classes and labels of what was told of each image; `what` tells it, for errors.

    Whole numbers are labels as they are, with a warning where no image has some number up to the largest. Where no
    image has most of them, as with ids and dates, each number that is there is a class. All else are names. Raises
    ValueError for what is no single class: fractions, lists, numbers below 0, nothing at all.
    """
    texts = [text_of(value, what) for value in told]
    whole = [WHOLE.fullmatch(text) for text in texts]
    if not all(whole):
        part = next((text for text in texts if not WHOLE.fullmatch(text)), "")
        if all(map(DECIMAL.fullmatch, texts)):
            kind = "number" if part.lstrip("-").isdecimal() else "fraction"
            raise ValueError(f"{what} holds the {kind} {part:.99}; wanted a class: a whole number or a name")
        return by_name(texts)
    texts = [found[1] for found in whole if found]
    numbers = {int(text): text for text in texts}
    if min(numbers) < 0:
        raise ValueError(f"{what} has the label {min(numbers)}; number classes from 0, or name them")
    if len(numbers) < len(set(texts)):  # 7 and 007
        return by_name(texts)
    count = max(numbers) + 1
    if count > 2 * len(numbers):
        warnings.warn(
            f"the labels of {what} are {len(numbers)} different numbers up to {count - 1}: each is a class, and labels "
            "count them from 0 in their order",
            stacklevel=2,
        )
        return by_name(texts)
    empty = [str(number) for number in range(count) if number not in numbers]
    if empty:
        warnings.warn(
            f"the labels of {what} go up to {count - 1}, but no image has {some(empty)}: these are classes without "
            "images; number classes from 0 without gaps, or name them",
            stacklevel=2,
        )
    classes = tuple(numbers.get(number, str(number)) for number in range(count))
    return classes, torch.tensor([int(text) for text in texts], dtype=torch.int64)


def among(told: Sequence[Any], names: Sequence[str], what: str) -> Classes:
    """Classes whose names are known, and labels of what was told: their numbers, or names. Raises ValueError."""
    names = list(map(one_spelling, names))
    number = {name: label for label, name in enumerate(names)}
    labels = []
    for row, value in enumerate(told):
        text = text_of(value, what)
        found = WHOLE.fullmatch(text)
        label = number[text] if text in number else int(found[1]) if found else -1
        if not 0 <= label < len(names):
            raise ValueError(
                f"the label of row {row} in {what} is {text}, which is none of its {len(names)} classes "
                f"{some(names)}; mend the row, or choose another column of labels, or 'none'"
            )
        labels.append(label)
    return tuple(names), torch.tensor(labels, dtype=torch.int64)


def is_missing(value: Any) -> bool:
    """Tell whether a value says nothing: None, NaN, an empty text, or -1, as test splits have it."""
    if isinstance(value, float) and math.isnan(value):
        return True
    return value is None or value in (-1, "-1", "nan", "NaN") or (isinstance(value, str | bytes) and not value.strip())


def text_of(value: Any, what: str) -> str:
    """The value told of one image, as text. Raises ValueError for what is no single class."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} holds {value!r:.60}, which is no text; wanted a whole number or a name") from None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    if isinstance(value, list | tuple | dict):
        raise ValueError(f"{what} holds {value!r:.60} for one image; wanted one class: a whole number or a name")
    return one_spelling(str(value).strip())


def one_spelling(text: str) -> str:
    """Text with its accents written in one way, for disks and programs write them in two (Unicode's NFC)."""
    return normalize("NFC", text)


def check_none_lost(before: Tensor, labels: Tensor, classes: tuple[str, ...], place: str) -> None:
    """Raises ValueError where a class that had images `before` has none left among the labels."""
    had, has = (part.bincount(minlength=len(classes)) for part in (before, labels))
    empty = [classes[label] for label in ((had > 0) & (has == 0)).nonzero().flatten().tolist()]
    if empty:
        raise ValueError(
            f"no image that can be read in {place} for class {some(empty)}; add images, or remove the class, or choose "
            "labels 'none' where no classes are needed"
        )
