"""Options that several verbs have, and what reads their values."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from robustok.cli.options import Option
from robustok.names import RUNS, SPACES, scaled

MOST = 10**6  # numbers that a range stands for, at most

GRID, SAMPLES, DRAWN = "grid.png", "samples.npz", "images"  # in the folder that sample writes


def numbers(text: str) -> tuple[int, ...]:
    """`0,3` or `0-9` or both, as numbers in that order; a number may be negative. Raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,40})(?:-(-?\d{1,40}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= last - first < MOST:
            raise ValueError(f"{_short(text)} are no numbers; write them like 0,3 or 0-9")
        found += range(first, last + 1)
    return tuple(found)


def values(text: str) -> tuple[float, ...]:
    """`2` or `5,2.5` as numbers above 0. Raises ValueError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value < float("inf") for value in found):
        raise ValueError(f"{_short(text)} are no values; write numbers above 0 like 5,2.5")
    return found


def seed(text: str) -> int:
    """A seed: any whole number, as Python and the settings of training take it. Raises ValueError."""
    if not re.fullmatch(r"-?\d{1,1000}", text, re.ASCII):
        raise ValueError(f"{_short(text)} is no seed; give a whole number")
    return int(text)


def at_least_one(text: str) -> int:
    """A count. Raises ValueError."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{_short(text)} is no count; give a whole number from 1 up")
    return int(text)


def _short(text: str) -> str:
    """The typed text in quotation marks, not more than a line of it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def which(recipes: tuple[str, ...], *, positional: bool = False) -> Option:
    """The preset of a stage: one on the embedded images, or a recipe on ImageNet in one of three scales."""
    text = (
        "demo (for two CPU cores; change what you like of it) or smoke (a few steps, to try a path); masked (its "
        "generator fills in masks), continuous (no codebook) and rae (a frozen pretrained encoder) are the same, and "
        "so are these with -smoke behind them. On ImageNet (docs/recipes.md), each also with -one_gpu (the "
        f"same batch in parts, for 24 GB) or -smoke behind it: {', '.join(recipes)}"
    )
    return Option("NAME", help=text, choices=(*RUNS, *scaled(recipes)), positional=positional)


OTHERS = "or another family's file, folder, or owner/repository[:file][@revision] on the hub"
A_SPACE = f"{', '.join(SPACES[:-1])} or {SPACES[-1]}"
OF_IMAGES = Option(
    "FOLDER|TAR|PARQUET|hf:NAME|fashion-mnist|fluent",
    str,
    "a folder of images, one sub-folder per class or all in one place; tar shards ('train-{000..127}.tar', also at an "
    "http address); parquet files; hf:OWNER/NAME[:SPLIT] of the Hugging Face hub, or a folder of its save_to_disk; or "
    "fashion-mnist or fluent, which are embedded",
)
SEED = "everything random derives from it: any whole number"

Count: TypeAlias = Annotated[int, Option("N", at_least_one)]
Numbers: TypeAlias = Annotated[tuple[int, ...], Option("0-9|0,3", numbers)]
Seed: TypeAlias = Annotated[int, Option("N", seed, SEED)]
OwnSeed: TypeAlias = Annotated[int, Option("N", seed, f"{SEED}; else that of the settings, 0")]
Device: TypeAlias = Annotated[str, Option(help="cpu, cuda, cuda:1 ...; without it, cuda if there is one")]
Images: TypeAlias = Annotated[str, OF_IMAGES]
ScoredImages: TypeAlias = Annotated[str, Option("FOLDER|NPZ|TAR")]
ScoredName: TypeAlias = Annotated[str, Option("FOLDER|NPZ|TAR|fashion-mnist|fluent")]
ReferenceName: TypeAlias = Annotated[str, Option("IMAGES|FILE")]
Model: TypeAlias = Annotated[Path, Option("NAME")]
TokenizerName: TypeAlias = Annotated[
    Path, Option("NAME", help=f"a folder that train-tokenizer or post-train wrote, {OTHERS}")
]
GeneratorName: TypeAlias = Annotated[Path, Option("NAME", help=f"a folder that train-generator wrote, {OTHERS}")]
Folder: TypeAlias = Annotated[Path, Option("DIR")]
OutFolder: TypeAlias = Annotated[Path, Option("DIR", help="folder to write to", writes="folder")]
OutFile: TypeAlias = Annotated[Path, Option("FILE", writes="file")]
FIELDS = "what the tokenizer's file does not tell, such as image_size=384; may come several times"
Fields: TypeAlias = Annotated[tuple[str, ...], Option("NAME=VALUE", help=FIELDS)]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Options of how features are computed."""

    # number format of the networks; in half precision distances shift by some percent, so scores of one format only are
    # compared
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # compile the networks, for many images on a GPU; the protocol says so


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of how images are read, whatever for."""

    upscale: bool = False  # enlarge images that are smaller than the crop, rather than refuse them
    # mirrored images do not belong to the set (not for fashion-mnist; text, left and right shoes)
    no_flip: bool = False
    # what tells the classes, where it is not found: a file such as LOC_val_solution.csv (for a folder), a field as cls
    # or json:label (tar), a column (parquet, hf); or none (scores need no classes)
    labels: Annotated[str, Option("FILE|NAME")] | None = None
    # images that cannot be read: skip (found in advance, as is usual for folders of up to 20,000), fail (when met, as
    # is usual otherwise), replace (by the next one of the class)
    broken: Literal["skip", "fail", "replace"] | None = None


@dataclass(frozen=True, kw_only=True)
class View(Reading):
    """Options of how images are read in training and for scores."""

    window: Count | None = None  # tar shards, or row groups of parquet files, that an epoch mixes, for slow disks
    workers: Count | None = None  # threads that decode images; as many as there are cores unless given

    def scored(self, *, own_labels: bool = True) -> "View":
        """The same for images that are only scored: they need no classes, in any order.

        `own_labels`: what --labels says is of these images, and not of those beside them that a model is trained on.
        """
        return replace(self, labels=(self.labels if own_labels else None) or "none", window=None)


@dataclass(frozen=True, kw_only=True)
class ValidationOptions(View):
    """Options of a model's validation while it trains, on images that are read alike."""

    validate_every: Count | None = None  # steps between two validations; a tenth of them all unless given
    validate_images: Count = 2000  # images of a validation
    validate_features: str | None = None  # feature space of its distances; lite0, or that of a file of statistics


@dataclass(frozen=True, kw_only=True)
class GeneratorValidation(ValidationOptions):
    """Options of a generator's validation."""

    validate_images: Count = 1000  # images of a validation
    validate_features: (
        Annotated[
            str,
            Option(
                "NAME,...",
                help=f"spaces of its scores, of which the first decides, one or several of {A_SPACE}; lite0, or that "
                "of a file of statistics",
            ),
        ]
        | None
    ) = None
    # also FDr6 and MIND at every validation, in the six spaces of FDr6 or in those of --validate-features
    fdr: bool = False
    # gFID, or several, of which the first step is told at which a validation finds as little or less
    gfid_below: Annotated[tuple[float, ...], Option("VALUE,...", values)] | None = None
