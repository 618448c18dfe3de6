"""Scores and settings that the authors of generators published, by which these are sampled unless a user says."""

from typing import Any, NamedTuple

from robustok.adapters.model_names import SUFFIXES
from robustok.generators.flow import FlowSampling
from robustok.generators.generate import AnySampling, plain_sampling
from robustok.generators.sampling import Sampling


class PublishedGenerator(NamedTuple):
    """A file of weights and what its authors say of it: published, not reproduced here."""

    weights: str  # where they are on the Hugging Face hub: owner/repository:file, or owner/repository that has one only
    sampling: Any  # how they sample it
    gfid: float | None  # the gFID that they report for that, on ImageNet at 256 pixels


def published_generator(generator: Any) -> PublishedGenerator | None:
    """The entry of a loaded generator's file; None where the file is not known, or its name is shared.

    A file from the hub is known by its repository and name, one on this machine by its name, or where the repository
    has no other by that of its folder.
    """
    source = getattr(generator, "source", None)
    if source is None:
        return None
    folder = source.path.parent if source.path.suffix in SUFFIXES else source.path
    named = []
    for entry in getattr(generator, "presets", {}).values():
        repository, _, file = entry.weights.partition(":")
        here = source.path.name == file if file else source.repository or folder.name == repository.rpartition("/")[2]
        if here and source.repository in (None, repository):
            named.append(entry)
    return named[0] if len(named) == 1 else None


def default_sampling(generator: Any) -> AnySampling:
    """Settings as published for this file, or for this family; else those of a plain draw without guidance."""
    entry = published_generator(generator)
    if entry is not None:
        return entry.sampling
    if isinstance(of_family := getattr(generator, "sampling", None), Sampling | FlowSampling):
        return of_family
    return plain_sampling(generator)
