"""Settings as they are typed or stand in files: JSON and YAML."""

import math

import pytest

from robustok.cli import main
from robustok.cli.settings import from_text, layered
from robustok.presets import smoke
from robustok.tokenizer.quantizer import FSQ
from robustok.training.rehearsal import Rehearsed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e4", 1e4),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("[1e-2, 2]", [0.01, 2]),
        ('{"lr": 1e-3}', {"lr": 1e-3}),
        ("lr: 2e-3", {"lr": 2e-3}),
        (".inf", math.inf),
        ("null", None),
        ("true", True),
        ("7", 7),
        ("-1_000", -1000),
        ("010", 10),  # not eight, as YAML 1.1 has it
        ("08", 8),
        ("0x1F", 31),
        ("0o10", 8),
        ("1:30", "1:30"),  # not ninety
        ("1:30.5", "1:30.5"),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("ViT", "ViT"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("2020-01-01", "2020-01-01"),
        ("'1e5'", "1e5"),
    ],
)
def test_text_as_a_value(text, value):
    found = from_text(text, "--x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1,", "a: b: c", "!!python/none x", "="])
def test_text_that_is_none(text):
    with pytest.raises(ValueError, match="--x cannot be read as JSON or YAML"):
        from_text(text, "--x")


@pytest.mark.parametrize("text", ["loop:\n  seed: 1\n  seed: 2", '{"seed": 1, "seed": 2}'])
def test_a_name_that_comes_twice_is_refused(text):
    with pytest.raises(ValueError, match="it says seed twice, and only one can count; leave out the other"):
        from_text(text, "run.yaml")


def test_a_name_may_be_said_anew_where_yaml_merges():
    merged = from_text("a: &a {seed: 1}\nb: {<<: *a, seed: 2}\nc: {<<: *a}", "run.yaml")
    assert merged == {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 1}}


def test_the_order_in_which_settings_are_typed_does_not_matter():
    """A kind that is named after what is set in it would take its place, and with it what was set."""
    typed = [
        ("main.perturbation.sigma", "0.4"),
        ("main.tokenizer.quantizer.levels", "[8, 5, 5]"),
        ("main.perturbation", "Rehearsed"),
        ("main.tokenizer.quantizer", "FSQ"),
    ]
    found = layered(smoke(), (), typed)
    assert found == layered(smoke(), (), typed[::-1])
    assert found.main.perturbation == Rehearsed(sigma=0.4)
    assert found.main.tokenizer.quantizer == FSQ(levels=(8, 5, 5))


def test_a_second_phase_alone_is_for_a_tokenizer_that_is_given(capsys):
    asked = ["train-tokenizer", "demo", "--perturbation", "Rehearsed", "--perturbation.freeze_from", "0", "--settings"]
    assert main([*asked, "--tokenizer", "folder"]) == 0
    assert "--perturbation.freeze_from 0.0" in " ".join(capsys.readouterr().out.split())
    assert main(asked) == 2
    assert "only the decoder would learn, of a tokenizer that is new" in capsys.readouterr().err


def test_a_tokenizer_that_is_given_keeps_its_own_settings(capsys):
    words = ["train-tokenizer", "smoke", "--images", "fluent", "--tokenizer", "t1", "--out", "o", "--quiet"]
    assert main([*words, "--tokenizer.quantizer.codebook_size", "5"]) == 2
    told = capsys.readouterr().err
    assert "a tokenizer that is given keeps its own settings; leave out --tokenizer.quantizer.codebook_size" in told
