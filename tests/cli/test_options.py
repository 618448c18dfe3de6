"""A command is a dataclass: its fields are options, and words become one of it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest

from robustok.cli.arguments import Count
from robustok.cli.help import about, explanations, help_of
from robustok.cli.options import NO_OPTION, Command, Configurable, Option, Shared, Verbose, name_of, options_of
from robustok.cli.parser import parse
from robustok.cli.verbs import VERBS
from robustok.evaluation.features.spaces.vision import VISION_MODELS
from robustok.names import IN_PACKAGES, SPACES


@dataclass(frozen=True, kw_only=True)
class Glaze:
    """Options that several verbs have."""

    color: Literal["red", "blue"] = "red"  # of the glaze
    coats: Count = 1  # how many


@dataclass(frozen=True, kw_only=True)
class BakeBread(Glaze, Verbose):
    """Bread, from flour.

    Reads flour and
    writes bread.

    Stands for a verb.
    """

    group = "Bake"

    loaves: Annotated[tuple[Path, ...], Option(positional=True)]  # where they go
    # how long it rises, for which two
    # lines are needed
    minutes: Annotated[int, Option("M", int)] | None = None
    seeds: tuple[str, ...] = ()  # what is on it
    coats: Count = 2  # how many
    flour: Path  # of wheat


def baked(*words: str) -> BakeBread:
    made = parse(BakeBread, words)
    assert isinstance(made, BakeBread)
    return made


def test_words_become_a_command():
    plain = BakeBread(loaves=(Path("a"),), flour=Path("f"))
    assert baked("a", "--flour", "f") == plain == baked("--flour=f", "a")
    assert (plain.color, plain.coats) == ("red", 2)
    words = ["--flour", "f", "a", "--seeds", "x", "b", "--seeds=y", "--minutes", "-3", "--color", "blue", "--quiet"]
    assert baked(*words) == BakeBread(
        loaves=(Path("a"), Path("b")),
        flour=Path("f"),
        seeds=("x", "y"),
        minutes=-3,
        color="blue",
        quiet=True,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "the following arguments are required: --flour"),
        (["--flour", "f"], "the following arguments are required: loaves"),
        (
            ["a", "--flour", "f", "--color", "green"],
            "argument --color: invalid choice: 'green' (choose from 'red', 'bl",
        ),
        (["a", "--flour", "f", "--coats", "0"], "argument --coats: '0' is no count"),
        (["a", "--flour", "f", "--minutes", "x"], "argument --minutes: invalid literal"),
        (["a", "--flour"], "argument --flour: expected one argument, the FILE"),
        (["a", "--flour", "--quiet"], "argument --flour: expected one argument"),
        (["a", "--flour", "f", "--quiet=1"], "--quiet is a switch and takes no value, not '1' either"),
        (["a", "--flour", "f", "--flour", "g"], "--flour is given twice, and only one can count"),
        (["a", "--flower", "f"], "there is no option --flower; did you mean --flour?"),
        (["a", "--settings"], "there is no option --settings"),
        (["a", "--flour", ""], "argument --flour: it is empty; give its value, or leave it out"),  # was the folder here
        ([" ", "--flour", "f"], "argument loaves: it is empty"),
    ],
)
def test_words_that_are_no_command(words, message):
    with pytest.raises(ValueError) as error:
        parse(BakeBread, words)
    assert message in str(error.value)


def test_a_tilde_is_the_users_folder_where_the_shell_leaves_it(monkeypatch):
    monkeypatch.setenv("HOME", "/baker")
    baked = parse(BakeBread, ["~/a", "--flour=~/f", "--seeds=~/s", "--seeds", "a~"])
    assert baked.loaves == (Path("/baker/a"),)
    assert baked.flour == Path("/baker/f")
    assert baked.seeds == ("/baker/s", "a~")


def test_a_word_too_many():
    report = next(verb for verb in VERBS if name_of(verb) == "report")
    with pytest.raises(ValueError, match="unrecognized arguments: b; see robustok report --help"):
        parse(report, ["a", "b"])


def test_help_is_made_of_docstring_and_comments():
    assert name_of(BakeBread) == "bake-bread"
    assert about(BakeBread) == ("bread, from flour", "Reads flour and writes bread.\nStands for a verb.")
    told = explanations(BakeBread)
    assert told["minutes"] == "how long it rises, for which two lines are needed"
    assert (told["loaves"], told["coats"], told["quiet"]) == ("where they go", "how many", "say nothing on the way")
    lines = help_of(BakeBread).splitlines()
    assert lines[0] == "robustok bake-bread LOAVES... --flour FILE [options]"
    assert [line.split("  ")[1].strip() for line in lines if line.startswith("  ") and line[2] != " "] == [
        "LOAVES...",
        "--minutes M",
        "--seeds NAME",
        "--coats N",
        "--flour FILE",
        "--color red|blue",
        "--quiet",
    ]
    assert "how many (2)" in help_of(BakeBread), "the default is that of the verb, not that of the group"


def test_every_field_of_a_verb_can_be_typed_and_is_explained():
    for verb in VERBS:
        options = {option.field: option for option in options_of(verb)}
        told = explanations(verb)
        assert all(told.get(name, option.help) for name, option in options.items()), verb
        names = {part.name for part in fields(verb) if part.metadata != NO_OPTION}
        assert names <= options.keys()
        assert len({option.name for option in options.values()}) == len(options)


def test_kinds_of_commands():
    kinds = {name_of(verb): issubclass(verb, Configurable) for verb in VERBS}
    assert [name for name, settable in kinds.items() if not settable] == [
        *("encode", "export", "push", "reference", "compare", "report", "doctor"),
    ]
    shared = [name_of(verb) for verb in VERBS if issubclass(verb, Shared)]
    assert shared == ["train-tokenizer", "train-generator", "post-train", "encode", "sample", "evaluate", "reference"]
    assert all(issubclass(verb, Command) for verb in VERBS)


def test_help_names_the_feature_spaces_that_there_are():
    assert set(SPACES) == {*IN_PACKAGES, "inception", *VISION_MODELS}
