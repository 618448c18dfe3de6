"""Several files by one name, as a shell would write it; what is there goes before what a pattern could mean."""

import re
from glob import glob
from pathlib import Path


def matches(pattern: str) -> list[str]:
    """The paths of a pattern, each choice of its braces in turn and sorted within; none where there is nothing.

    Folders that are there by their very name may hold brackets and braces. Raises ValueError where braces name a file
    that is not there beside some that are.
    """
    path, rest = _there(Path(pattern))
    if rest is None:
        return [str(path)]
    choices = expanded(rest)
    found = [[str(path / name) for name in sorted(glob(choice, root_dir=path, recursive=True))] for choice in choices]
    gone = [choice for choice, names in zip(choices, found, strict=True) if not names]
    names = [name for part in found for name in part]
    if names and gone:
        more = f", nor {len(gone) - 1} others" if len(gone) > 1 else ""
        raise ValueError(f"there is no {path / gone[0]}{more} of {pattern}; fetch what is missing, or leave it out")
    return names


def expanded(pattern: str) -> list[str]:
    """A pattern with its braces spelled out, as a shell does: `a{00..02}`, `{train,val}`."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        return [pattern]
    inner, numbers = braces[1], re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    if numbers:
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inner.split(",")
    return [
        name for choice in choices for name in expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])
    ]


def _there(path: Path) -> tuple[Path, str | None]:
    """The longest part of a path that is there by its very name, and the rest; None where all of it is."""
    rest: list[str] = []
    while not path.exists() and path != path.parent:
        rest.insert(0, path.name)
        path = path.parent
    return path, "/".join(rest) if rest else None
