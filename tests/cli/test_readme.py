"""What the README says can be typed."""

import ast
import inspect
import json
import re
import shlex
from operator import attrgetter
from pathlib import Path

import robustok
from robustok import presets
from robustok.cli import options, settings
from robustok.cli.options import Configurable
from robustok.cli.parser import parse
from robustok.cli.verbs import VERBS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The code blocks of the README in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_commands_of_the_readme_are_understood(tmp_path, monkeypatch):
    config = tmp_path / "runs" / "stronger" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(settings.to_plain(presets.demo())))
    monkeypatch.chdir(tmp_path)
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("robustok ")]
    for name, *words in commands:
        command = parse(options.verb_named(name, VERBS), words)
        if isinstance(command, Configurable):
            command.over(command.start())
    assert {words[0] for words in commands} >= {"demo", "train-tokenizer", "train-generator", "post-train", "evaluate"}


def test_the_python_of_the_readme_uses_what_there_is():
    code = ast.parse("\n".join(blocks("python")))
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    called = {name: call for call in calls if re.fullmatch(r"robustok\.[\w.]+", name := ast.unparse(call.func))}
    for name, call in called.items():
        function = attrgetter(name.removeprefix("robustok."))(robustok)
        named = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **named)
    assert {"robustok.load_tokenizer", "robustok.sample", "robustok.post_train"} <= called.keys()


def test_the_readme_names_files_that_exist():
    source = Path(options.__file__).parents[1]
    (tree,) = re.findall(r"```\nsrc/robustok/\n(.*?)```", README, re.DOTALL)
    for name in re.findall(r"^  (\S+)", tree, re.MULTILINE):
        assert (source / name).exists(), f"README.md names {name}"
