"""The pages say what there is: names, arguments, commands and settings exist, published numbers are the presets'."""

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

import pytest

import robustok
from robustok.adapters import FAMILIES, diffusers
from robustok.adapters.diffusion_transformers import LightningDiT
from robustok.adapters.published_generators import PublishedGenerator
from robustok.cli.demo import Demo
from robustok.cli.options import Command, Configurable, check_names, verb_named
from robustok.cli.parser import parse
from robustok.cli.settings import layered
from robustok.cli.verbs import VERBS
from robustok.data import ImageFolder, open_images
from robustok.data.fluent import EMBEDDED
from robustok.data.image_files import FileView
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import PostTraining

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "docs" / "models"
OF_ROOT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))  # run as they are by `make docs`
PAGES = [*OF_ROOT, *sorted((ROOT / "docs").rglob("*.md")), *NOTEBOOKS]
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

OURS = (Tokenizer, AutoregressiveModel, DiffusionTransformerModel)
LOADED = (*FAMILIES, *OURS, diffusers.DiffusersAutoencoder, diffusers.DiffusersVQ, diffusers.DiffusersDiT)
MODEL = object()  # stands for a model that was loaded, of whatever class
LOADERS = (robustok.load_tokenizer, robustok.load_generator)
MAKERS = ("load_tokenizer", "load_generator", "post_train", "tokenizer_of", "generator_of", "from_checkpoint", "to")


def text_of(page: Path) -> str:
    """A page as Markdown; a notebook's cells of code are blocks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            language, code = ("bash", source[7:]) if source.startswith("%%bash\n") else ("python", source)
            source = f"```{language}\n{code}\n```"
        parts.append(source)
    return "\n\n".join(parts)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def names_of(config: type) -> set[str]:
    return {field.name for field in fields(config)}


def fields_of_loading() -> set[str]:
    """What some family takes that its weights do not tell."""
    found: set[str] = set()
    for function in (*(part for f in FAMILIES for part in (f.config_from_state, f.from_checkpoint, f.from_state)),
                     diffusers.load_tokenizer):  # fmt: skip
        found |= {p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD}
    return found.union(*(names_of(family.config_type) for family in FAMILIES))


MORE = {  # names that functions pass on
    robustok.sample: names_of(Sampling) | names_of(FlowSampling),
    **dict.fromkeys(LOADERS, fields_of_loading()),
    **{f: set(FileView.__annotations__) for f in (ImageFolder, open_images)},
}


class Code:
    """Python of a page, as far as it is about robustok: every name, argument and method is looked up."""

    def __init__(self, code: str):
        self.names: dict[str, Any] = {}
        for statement in ast.parse(code).body:
            self.read(statement)

    def read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] == "robustok":
                        module = import_module(name.name)
                        self.names[name.asname or "robustok"] = module if name.asname else robustok
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "robustok":
                self.names |= {name.asname or name.name: member(import_module(module), name.name) for name in names}
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.names[name] = self.meaning(value)
            case _:
                for part in ast.iter_child_nodes(statement):
                    if isinstance(part, ast.stmt):
                        self.read(part)
                    elif isinstance(part, ast.expr):
                        self.meaning(part)

    def meaning(self, node: ast.AST) -> Any:
        """What an expression is: something of robustok, a model, or None for everything else."""
        match node:
            case ast.Name(id=name):
                return self.names.get(name)
            case ast.Attribute(value=value, attr=name):
                whole = self.meaning(value)
                return None if whole is None else member(whole, name)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                for part in (*arguments, *(keyword.value for keyword in keywords)):
                    self.meaning(part)
                return called(
                    self.meaning(function), len(arguments), [keyword.arg for keyword in keywords if keyword.arg]
                )
        for part in ast.iter_child_nodes(node):
            self.meaning(part)
        return None


def member(whole: Any, name: str) -> Any:
    """An attribute; of a model a list of the methods of that name. Anything but modules, classes and models: None."""
    if whole is MODEL:
        methods = [getattr(model, name) for model in LOADED if inspect.isroutine(getattr(model, name, None))]
        instance = {attribute for model in LOADED for attribute in (*dir(model), *annotations(model))}
        assert name in instance | {"source", "config"}, f"no model has {name}"
        return methods or None
    if isinstance(whole, ModuleType) and not hasattr(whole, name):
        return import_module(f"{whole.__name__}.{name}")  # raises ModuleNotFoundError for what is none
    if isinstance(whole, (ModuleType, type)):
        return getattr(whole, name)
    return None


def annotations(model: type) -> set[str]:
    return {name for parent in model.__mro__ for name in getattr(parent, "__annotations__", {})}


def called(function: Any, positional: int, named: list[str]) -> Any:
    """What a call gives: a model or None. Asserts that one of the functions that it may be takes these arguments."""
    if function is None or function is MODEL:
        return None
    several = isinstance(function, list)
    ways = function if several else [function]
    assert any(takes(way, positional + several, named) for way in ways), f"{ways[0].__qualname__} takes no {named}"
    return MODEL if getattr(ways[0], "__name__", "") in MAKERS else None


def takes(function: Any, positional: int, named: list[str]) -> bool:
    """Whether a function can be called so; where it passes names on, whether those that it passes them to know them."""
    signature = inspect.signature(function)
    known = MORE.get(function)
    if known is not None and not set(named) <= known | set(signature.parameters):
        return False
    bound = inspect.ismethod(function)  # a class method of a model: its class is not passed
    try:
        signature.bind(*[None] * (positional - bound), **dict.fromkeys(named))
    except TypeError:
        return False
    return True


@EACH
def test_the_python_of_a_page_uses_what_there_is(page):
    for code in blocks(page, "python"):
        Code(code)


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `robustok` of each command in a page."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "robustok":
            yield words[1:]


def understood(words: list[str]) -> Command | str:
    """The command of words, its options and the settings of its preset checked; or its help. Raises ValueError."""
    command = parse(verb_named(words[0], VERBS), words[1:])
    if isinstance(command, Configurable):
        own = isinstance(command, Demo) and command.images not in EMBEDDED  # which are not here
        preset = command.start() if own else command.chosen()
        failures = [error for config in kinds(preset) if (error := refusal(command, config)) is not None]
        if len(failures) == len(kinds(preset)):
            raise failures[0]
    return command


def kinds(preset: Any) -> list[Any]:
    """A preset, and the same for a generator of latents."""
    if isinstance(preset, Sampling):
        return [preset, FlowSampling()]
    if isinstance(preset, PostTraining):
        return [preset, replace(preset, sampling=FlowSampling())]
    return [preset]


def refusal(command: Configurable, config: Any) -> ValueError | None:
    try:
        check_names(type(command), command.typed, config)
        layered(config, (), command.typed)
    except ValueError as error:
        return error
    return None


@EACH
def test_the_commands_of_a_page_are_understood(page):
    for words in commands(page):
        understood(words)


@EACH
def test_what_a_page_has_made_and_run_is_there(page):
    """`make` has the target, `benchmarks` the script."""
    text = text_of(page)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", "".join(blocks(page, "bash")), re.MULTILINE)) <= set(targets)
    for script in re.findall(r"python ((?:benchmarks|docs)/\w+\.py)", text):
        assert (ROOT / script).is_file(), f"{page.name} runs {script}"


@EACH
def test_tests_that_a_page_names_are_there(page):
    for path, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", text_of(page)):
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name} names {path}::{name}"


@EACH
def test_what_a_page_takes_of_another_is_there(page):
    """The markers of an include, which the site is built with."""
    text = text_of(page)
    for target, options in re.findall(r"```{include} (\S+)\n(.*?)```", text, re.DOTALL):
        whole = (page.parent / target).read_text(encoding="utf-8")
        places = [
            whole.find(ast.literal_eval(mark)) for mark in re.findall(r":(?:start-after|end-before): (.+)", options)
        ]
        assert -1 not in places, f"{page.name} takes a part of {target} that is not there"
        assert places == sorted(places)


def test_every_page_is_in_the_index():
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    listed = {line for tree in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in tree.split("\n")}
    pages = [line for line in listed if line and line[0] != ":"]
    named = {path for line in pages for ending in ("md", "ipynb") for path in docs.glob(f"{line}.{ending}")}
    assert {docs / "index.md"} | named == {*docs.rglob("*.md"), *NOTEBOOKS}


def test_notebooks_are_kept_without_what_they_printed():
    """The build makes it anew; what is kept would be of another version."""
    assert len(NOTEBOOKS) == 3
    for page in NOTEBOOKS:
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@EACH
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", text_of(page)):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_broken_link_of_the_site_is_found(tmp_path):
    """`make docs` ends with it, so it must see a page that is not there, an anchor that is not, and nothing else."""
    (tmp_path / "guides").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="guides/own.html#first-steps"></a><a href="guides/own.html#gone"></a><a href="guides/"></a>'
        '<a href="lost.html"></a><img src="lost.png"><a href="https://example.org/x"></a><a href="#"></a><b id="here">'
    )
    (tmp_path / "guides" / "own.html").write_text('<h1 id="first-steps"></h1><a href="../index.html#here"></a>')
    (tmp_path / "guides" / "index.html").write_text('<a href="own%2Ehtml">')
    broken = run_path(str(ROOT / "docs" / "check_links.py"))["broken"]
    assert broken(tmp_path) == ["index.html: guides/own.html#gone", "index.html: lost.html", "index.html: lost.png"]


def test_every_family_has_its_page():
    index = (MODELS / "README.md").read_text(encoding="utf-8")
    for family in (*FAMILIES, diffusers.DiffusersAutoencoder):
        row = next((line for line in index.splitlines() if f"`{family.family}`" in line), None)
        assert row is not None, f"no row of docs/models/README.md names {family.family}"
        (page,) = re.findall(r"\]\((\S+?\.md)\)", row)
        text = (MODELS / page).read_text(encoding="utf-8")
        assert "\n## Verified here\n" in text
        assert "\n## Not verified here\n" in text
        assert len(text.splitlines()) <= 90, f"{page} is long"


PRESETS = [(family, name) for family in FAMILIES for name in family.presets]


@pytest.mark.parametrize(("family", "name"), PRESETS, ids=[name for _, name in PRESETS])
def test_published_numbers_are_those_of_the_presets(family, name):
    entry: PublishedGenerator = family.presets[name]
    file = entry.weights.rpartition("/")[2].rpartition(":")[2]
    numbers = [f"{entry.sampling.guidance:g}", *([f"{entry.gfid:.2f}"] if entry.gfid is not None else [])]
    rows = [
        line
        for page in sorted(MODELS.glob("*.md"))
        if entry.weights.partition(":")[0] in text_of(page)
        for line in text_of(page).splitlines()
        if line.startswith("|") and f"`{file}`" in line
    ]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert any(all(number in row for number in numbers) for row in cells), f"no row has {file} with {numbers}"


@pytest.mark.parametrize("config", LightningDiT.published.values(), ids=LightningDiT.published)
def test_published_guidance_of_lightningdit_is_in_a_row(config):
    rows = [
        line for line in (MODELS / "lightningdit.md").read_text(encoding="utf-8").splitlines() if "`hustvl/" in line
    ]
    assert any(f"| {config.guidance:g} " in row and f"| {config.guidance_high:g} " in row for row in rows)


@pytest.mark.parametrize(
    "code",
    [
        "import robustok\nrobustok.load_tokeniser('x')",
        "import robustok\nrobustok.load_tokenizer('x', image_sise=384)",
        "import robustok\nrobustok.sample(None, None, [1], guidence=2.0)",
        "import robustok\nrobustok.post_train(None, None, None)",
        "import robustok\nfor _ in range(2):\n    robustok.post_train(None, None, None, 'x', sigmas=1)",
        "import robustok\nx = robustok.load_tokenizer('x')\nx.to_chekpoint('y')",
        "import robustok\nx = robustok.load_tokenizer('x')\nx.to_checkpoint('y', layout=1)",
        "import robustok\nrobustok.post_train(None, None, None, 'x').to_difusers()",
        "from robustok.adapters.rar import RAB",
        "from robustok.adapters.rar import RAR\nRAR.preset['rar-b']",
        "from robustok.generators.flow import FlowSampling\nFlowSamplingstep=2"
        "import robustok\nprint(robustok.data.ImageFolder('x', sise=2))",
        "import robustok\nx = [",
    ],
)
def test_python_that_would_fail_is_seen(code):
    with pytest.raises((AssertionError, AttributeError, ImportError, SyntaxError)):
        Code(code)


@pytest.mark.parametrize(
    "words",
    [
        "evalate --tokenizer x --images y",
        "export --tokenizer x",
        "sample --generator x --tokenizer y --out z --guidence 2",
        "sample --generator x --tokenizer y --out z --method eule",
        "post-train --tokenizer x --generator y --images z --out w --sampling.temprature 2",
        "post-train --tokenizer x --generator y --images z --out w --sigma 7",
        "train-tokenizer demo --out y",
    ],
)
def test_a_command_that_would_fail_is_seen(words):
    with pytest.raises(ValueError):
        understood(words.split())
