"""Help says what there is, at once."""

import subprocess
import sys
from dataclasses import is_dataclass

import pytest

from robustok.cli import help, main, options
from robustok.cli.options import Configurable
from robustok.cli.verbs import VERBS

NAMES = [options.name_of(verb) for verb in VERBS]


def test_help_needs_no_torch():
    code = (
        "import sys; from robustok.cli import main; main([]); main(['demo', '--help']); "
        "print([m for m in ('torch', 'numpy', 'yaml') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_has_every_verb(argv, capsys):
    assert main(argv) == 0
    output = capsys.readouterr().out
    assert all(
        f"  {name} " in output and help.about(verb)[0] in output for name, verb in zip(NAMES, VERBS, strict=True)
    )
    assert max(map(len, output.splitlines())) <= 110


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_help_of_a_verb(verb, capsys):
    assert main([options.name_of(verb), "--help"]) == 0
    output = capsys.readouterr().out
    line, about = help.about(verb)
    assert line[0].islower()
    assert "Reads" in about
    assert "rites" in about
    told = help.explanations(verb)
    for option in options.options_of(verb):
        text = told.get(option.field, option.help)
        assert text, f"{option.shown} has no comment that is its help"
        assert option.shown in output
        assert "".join(text.split()) in "".join(output.split())
    assert ("--settings" in output, "goes on" in output) == (issubclass(verb, Configurable), verb.resumes)


def test_every_verb_has_its_work_and_its_preset():
    for verb in VERBS:
        assert verb.run is not options.Command.run
        if issubclass(verb, Configurable):
            assert is_dataclass(verb.start())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_settings_are_listed_with_values_and_comments(capsys):
    assert main(["demo", "--post.optim.lr", "3e-4", "--settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2)[1:] for line in lines if line.startswith("  --post.optim.lr ")] == [
        ["0.0003", "learning rate at its peak"]
    ]
    listed = {line.split()[0] for line in lines if line.startswith("  --")}
    assert {"--post.sigma", "--main.tokenizer.encoder.channels", "--post.objective.adversary.kind"} <= listed
    assert not any(line.startswith("  --") and len(line.split()) < 3 for line in lines), "a setting without comment"


def test_terms_of_rivals_are_typed_as_the_others(capsys):
    """A list is typed as JSON or YAML; a space that is not there ends the command with what there is."""
    typed = ["post-train", "--preset", "demo", "--tokenizer", "x", "--generator", "y", "--out", "z", "--settings"]
    spaces = ["--objective.frechet_spaces", "[lite0, lite2]"]
    assert main([*typed, "--objective.gram", "10", "--objective.consistency", "4", *spaces]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for line in ("gram 10.0", "consistency 4.0", 'frechet_spaces ["lite0", "lite2"]'):
        assert f"--objective.{line}" in told
    assert main([*typed, "--objective.frechet_spaces", "[inception]"]) == 2
    assert "choose from lite0, lite2, vgg-hed" in capsys.readouterr().err
    assert main([*typed, "--objective.gram", "-10"]) == 2
    assert "0 or more" in capsys.readouterr().err
